# SPDX-License-Identifier: GPL-2.0-or-later
#
# Manual pages, `make install` and `make uninstall`. mount(8) looks for its helpers in /sbin alone,
# so MOUNTDIR does not follow PREFIX.

SBINDIR ?= $(PREFIX)/sbin
MANDIR ?= $(PREFIX)/share/man
DOCDIR ?= $(PREFIX)/share/doc/tandemfs
MOUNTDIR ?= /sbin
EXAMPLES := $(addprefix mount-helpers/,tandemfs.sshd_config haproxy.cfg fstab.example var-www-html.mount)

.PHONY: man
man: $(BUILD)/tandemfs.8 ## build the manual page

# The options come from the program's own table.
$(BUILD)/tandemfs.8: mount-helpers/man/tandemfs.8.in $(BUILD)/tandemfs
	$(BUILD)/tandemfs --help=man > $@.options
	sed -e '/^@OPTIONS@$$/{r $@.options' -e 'd}' $< > $@.new && mv $@.new $@

.PHONY: install
install: all man ## install below DESTDIR, to PREFIX and /sbin/mount.tandemfs
	install -d $(DESTDIR)$(SBINDIR) $(DESTDIR)$(MOUNTDIR) $(DESTDIR)$(MANDIR)/man8 $(DESTDIR)$(DOCDIR)
	install -m 755 $(BUILD)/tandemfs mount-helpers/tandemfs-account $(DESTDIR)$(SBINDIR)
	sed 's|@SBINDIR@|$(SBINDIR)|' mount-helpers/mount.tandemfs > $(BUILD)/mount.tandemfs
	install -m 755 $(BUILD)/mount.tandemfs $(DESTDIR)$(MOUNTDIR)
	install -m 644 $(BUILD)/tandemfs.8 mount-helpers/man/mount.tandemfs.8 \
		mount-helpers/man/tandemfs-account.8 $(DESTDIR)$(MANDIR)/man8
	install -m 644 $(EXAMPLES) $(DESTDIR)$(DOCDIR)

.PHONY: uninstall
uninstall: ## remove what install put there
	rm -f $(DESTDIR)$(SBINDIR)/tandemfs $(DESTDIR)$(SBINDIR)/tandemfs-account
	rm -f $(DESTDIR)$(MOUNTDIR)/mount.tandemfs
	rm -f $(addprefix $(DESTDIR)$(MANDIR)/man8/,tandemfs.8 mount.tandemfs.8 tandemfs-account.8)
	rm -rf $(DESTDIR)$(DOCDIR)
