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
SIM_OBJ := $(patsubst %.c,$(BUILD)/%.o,$(wildcard tests/sim/*.c))
FS_OBJ := $(FS_SRC:%.c=$(BUILD)/%.o)
FUZZ_SRC := $(wildcard tests/fuzz/fuzz_*.c)
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

.PHONY: units
units: $(UNIT)

.PHONY: unit
unit: $(UNIT) ## build and run the unit tests
	@export LSAN_OPTIONS=suppressions=tests/lsan.supp:print_suppressions=0; \
	for t in $(UNIT); do $$t || exit 1; done

$(BUILD)/tests/sim/sim: $(SIM_OBJ) $(BUILD)/libreplicate.a
	$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(LDLIBS)

.PHONY: sim
sim: $(BUILD)/tests/sim/sim ## with FAULTS=1: build the simulation at build-faults/tests/sim/sim

# Always clang's, with the code below it instrumented too.
FUZZ_BUILD := $(MAKE) CC=clang BUILD=build-fuzz SANITIZE=fuzzer-no-link,address,undefined FAULTS=
.PHONY: fuzzers
fuzzers:
	$(FUZZ_BUILD) $(patsubst %.c,build-fuzz/%,$(FUZZ_SRC))

$(BUILD)/tests/fuzz/fuzz_%: $(BUILD)/tests/fuzz/fuzz_%.o $(BUILD)/libfs.a $(BUILD)/libreplicate.a
	$(CC) $(CFLAGS) $(LDFLAGS) -fsanitize=fuzzer -o $@ $^ $(LDLIBS)

.PHONY: soak
soak: all ## four storms of kills, cuts and stops in SOAK_SECONDS=1800
	$(MAKE) FAULTS=1 all
	SOAK_SECONDS=$(or $(SOAK_SECONDS),1800) /usr/bin/python3 -m pytest -q tests/pair/test_crash.py

.PHONY: fuzz
fuzz: ## run each fuzzer for FUZZ_SECONDS=5
	tests/run fuzz

.PHONY: check
check: ## lint: format, cppcheck, layering, scripts, manual pages
	tests/run lint

.PHONY: test
test: ## install what tests need, build, run all tests (as root)
	tests/install-deps
	tests/run build unit sim fuzz pytest

.PHONY: bench
bench: ## what calls and transfers cost, beside others (as root)
	tests/install-deps
	$(MAKE) all
	/usr/bin/python3 tests/bench/bench.py $(BENCH_ARGS)

.PHONY: demo
demo: ## two servers on this machine, uploads through one shown on the other (as root)
	tests/install-deps --demo
	$(MAKE) all
	/usr/bin/python3 tests/demo/demo.py $(DEMO_ARGS)

.PHONY: clean
clean: ## remove what was built
	rm -rf build build-*

.PHONY: help
help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | sort | expand -t 14

include mount-helpers/install.mk

# Objects of tests are kept although they are links of a chain.
.SECONDARY:

-include $(REPLICATE_OBJ:.o=.d) $(FS_OBJ:.o=.d) $(BUILD)/fs/main.d $(UNIT:=.d) $(SIM_OBJ:.o=.d) $(FUZZ_SRC:%.c=$(BUILD)/%.d)
