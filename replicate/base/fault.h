/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef TANDEMFS_FAULT_H
#define TANDEMFS_FAULT_H

/*
 * Labelled points at which tests let the program die or fail. Built in only with
 * -DTANDEMFS_FAULTS (make FAULTS=1, which the tests use); otherwise the macro is empty.
 *
 * TANDEMFS_FAULT="label:n[,label:n]" in the environment kills the process with SIGKILL at the
 * n-th pass of the label (n from 1). The simulation sets a hook instead.
 */

#ifdef TANDEMFS_FAULTS
void fault_point_hit(const char *label);
/* Called at every point with its label; NULL restores the environment's behaviour. */
void fault_set_hook(void (*hook)(const char *label));
#define fault_point(label) fault_point_hit(label)
#else
#define fault_point(label) ((void)0)
#endif

#endif
