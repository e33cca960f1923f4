# tandemfs: build, test, install. `make help` lists the targets.

BUILD ?= build$(if $(SANITIZE),-$(SANITIZE))$(if $(FAULTS),-faults)
CC ?= gcc
PKG_CONFIG ?= pkg-config
PREFIX ?= /usr/local
DESTDIR ?=

PKGS := fuse3 libssh2 libcrypto jansson libxxhash
OPTFLAGS ?= -O2 -g
WARN := -Wall -Wextra -Werror -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith -Wvla
CPPFLAGS += -D_GNU_SOURCE -D_FILE_OFFSET_BITS=64 -DFUSE_USE_VERSION=314 -I. $(shell $(PKG_CONFIG) --cflags $(PKGS))
CFLAGS += -std=c17 $(OPTFLAGS) $(WARN) -pthread -fstack-protector-strong
LDLIBS := $(shell $(PKG_CONFIG) --libs $(PKGS)) -pthread
ifdef SANITIZE
CFLAGS += -fsanitize=$(SANITIZE) -fno-omit-frame-pointer -fno-sanitize-recover=all
LDFLAGS += -fsanitize=$(SANITIZE)
endif
ifdef FAULTS
CPPFLAGS += -DTANDEMFS_FAULTS
endif

REPLICATE_SRC := $(wildcard replicate/*.c replicate/base/*.c)
FS_SRC := $(filter-out fs/main.c,$(wildcard fs/*.c))
UNIT_SRC := $(wildcard tests/unit/test_*.c)
REPLICATE_OBJ := $(REPLICATE_SRC:%.c=$(BUILD)/%.o)
FS_OBJ := $(FS_SRC:%.c=$(BUILD)/%.o)
UNIT := $(UNIT_SRC:%.c=$(BUILD)/%)

.PHONY: all
all: $(BUILD)/tandemfs ## build the program at build/tandemfs

$(BUILD)/tandemfs: $(BUILD)/fs/main.o $(BUILD)/libfs.a $(BUILD)/libreplicate.a
	$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(LDLIBS)

$(BUILD)/libreplicate.a: $(REPLICATE_OBJ)
	rm -f $@; $(AR) rcs $@ $^

$(BUILD)/libfs.a: $(FS_OBJ)
	rm -f $@; $(AR) rcs $@ $^

$(BUILD)/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP -c -o $@ $<

$(BUILD)/tests/unit/test_%: $(BUILD)/tests/unit/test_%.o $(BUILD)/libfs.a $(BUILD)/libreplicate.a
	$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(LDLIBS) -lcmocka

.PHONY: unit
unit: $(UNIT) ## build and run the unit tests
	@for t in $(UNIT); do $$t || exit 1; done

.PHONY: clean
clean: ## remove what was built
	rm -rf build build-*

.PHONY: help
help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | sort | expand -t 14

include mount-helpers/install.mk

-include $(REPLICATE_OBJ:.o=.d) $(FS_OBJ:.o=.d) $(BUILD)/fs/main.d $(UNIT:=.d)

# tests/sim needs the fault points: make FAULTS=1 sim
SIM_OBJ := $(patsubst %.c,$(BUILD)/%.o,$(wildcard tests/sim/*.c))
$(BUILD)/tests/sim/sim: $(SIM_OBJ) $(BUILD)/libreplicate.a
	$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(LDLIBS)
-include $(SIM_OBJ:.o=.d)
