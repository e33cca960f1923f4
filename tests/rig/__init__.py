# SPDX-License-Identifier: GPL-2.0-or-later
"""Two servers on one machine: network namespaces, an sshd and a tandemfs each, a proxy between."""
