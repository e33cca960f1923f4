/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef TANDEMFS_CONTROL_PEER_H
#define TANDEMFS_CONTROL_PEER_H

/* One connection of the control socket, as the commands of the server see it (control.c serves,
 * control_commands.c answers). */

#include "control.h"

struct control_client;

const struct control_config *control_client_config(const struct control_client *client);

/* Sends one line; steals @line. 0 or -errno; after an error the client is as good as gone. */
int control_client_send(struct control_client *client, json_t *line);

/* The same with a copy of the descriptor @fd. */
int control_client_send_fd(struct control_client *client, json_t *line, int fd);

/* A text for JSON, which holds UTF-8 only: other bytes as \xHH. JSON's null for NULL. */
json_t *control_text(const char *s);

/* {"command": "conflicts"}, in control_conflicts.c. */
int control_answer_conflicts(struct control_client *client, json_t *request, char **ret_error);

/* Whether the client is gone or the daemon ends: long work stops then. */
bool control_client_gone(void *client);

/* Answers @request but for the last line: the exit code, and *ret_error when there is something
 * to say. */
int control_answer(struct control_client *client, json_t *request, char **ret_error);

#endif
