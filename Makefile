# make          the programs, into build/bin/
# make demo     installs what is missing, then serves a folder, mounts it, shows it working
# make test     installs what is missing, then runs every check; the last line is the tally
# make bench    every bench at length, then build/bench/report.html
#               (bench-quick: shorter ones, in some minutes; bench-peers: these beside all peers,
#               which are installed first: the README's tables)
# make install  PREFIX=/usr/local, DESTDIR=; the headers and the programs
# make deb      a Debian package of these, in build/
# make soak     what takes hours: faults, long runs, sanitized programs (SOAK="faults twin": these)
# make fuzz     each fuzzer for FUZZ_SECONDS (60), FUZZ="chunk url": these
# make cross    every header and its tests on other machines, under qemu-user, and with musl
# make blocks   copies tests/blocks/ into every header
# make clean
#
# FSB_NO_INSTALL=1 refuses every installation: what cannot run without is skipped.
# CC, CFLAGS, LDFLAGS, PREFIX, DESTDIR and JOBS are yours to set; V=1 shows the compiler lines.

CFLAGS  ?= -O2 -g
PREFIX  ?= /usr/local
JOBS    ?= $(shell nproc)
VERSION := $(shell sed -n 's/^.define FSB_VERSION "\(.*\)"/\1/p' tests/blocks/common.h)

# Every switch whose library is here is on; --as-needed links a program only with what it calls.
SWITCHES  := fuse3=FUSE lmdb=LMDB sqlite3=SQLITE libzstd=ZSTD openssl=OPENSSL
ON        := $(shell for s in $(SWITCHES); do pkg-config $${s%=*} && echo $$s; done 2>/dev/null)
LIBRARIES := $(foreach s,$(ON),$(firstword $(subst =, ,$s)))
FEATURES  := $(foreach s,$(ON),-DFSB_WITH_$(lastword $(subst =, ,$s)))
ifneq ($(LIBRARIES),)
FEATURES  += $(patsubst -I%,-isystem %,$(shell pkg-config --cflags $(LIBRARIES)))
LDLIBS    := -Wl,--as-needed $(shell pkg-config --libs $(LIBRARIES))
endif

WARNINGS := -Wall -Wextra -Wpedantic -Wconversion -Wsign-conversion -Wshadow -Wundef -Werror \
            -Wstrict-prototypes -Wmissing-prototypes -Wwrite-strings -Wvla
COMPILE   = $(CC) -std=c11 -D_GNU_SOURCE -I. $(FEATURES) $(WARNINGS) $(CFLAGS) -pthread \
            -MMD -MP -MF $@.d -MT $@
# Its first source only: what that includes is a prerequisite too, once it was compiled.
LINK      = $(COMPILE) $(SANITIZE) -o $@ $(filter %.c,$<) $(filter %.o,$^) $(LDFLAGS) $(LDLIBS)
PLUGIN    = $(COMPILE) $(SANITIZE) -shared -fPIC -fvisibility=hidden -o $@ $<
SAY       = $(if $(V),,@echo '  cc $@';)

HEADERS := $(wildcard fsb_*.h)
TOOLS   := $(patsubst tools/%.c,bin/%,$(wildcard tools/fsb-*.c tools/fsb.c))
TESTS   := $(patsubst tests/%.c,%,$(wildcard tests/test_*.c))
THREADS := $(filter-out test_blake3,$(TESTS)) # that one has but one
BENCHES := $(patsubst bench/%.c,build/bench/%,$(wildcard bench/bench_*.c))
LINKED  := build/bench/link # the emulated network link
ROUGH   := $(patsubst build/bench/%,build/rough/%,$(BENCHES) $(LINKED)) # do these compile?
BAD_PLUGINS := moody crash exit hang abi size symbol refuses sleeps # what test_plugin loads
GROUPS  := $(patsubst tools/%.c,obj/%.o,$(wildcard tools/fsb_*.c)) # of fsb's sub-commands

.PHONY: all tools tests sanitized sanitized-tools benches rough demo test soak bench bench-quick \
        bench-peers fuzz install deb cross blocks clean
all: tools tests benches
tools: $(TOOLS:%=build/%)
tests: $(TESTS:%=build/%)
sanitized: $(addprefix build/asan/,$(TESTS)) $(addprefix build/tsan/,$(THREADS))
sanitized-tools: $(foreach v,asan tsan,$(TOOLS:%=build/$v/%))
benches: $(BENCHES) $(LINKED)
rough: $(ROUGH)

# A variant is the same programs in a folder of its own.
define VARIANT
$1/bin/fsb: $(addprefix $1/,obj/fsb.o $(GROUPS)) | $1/bin
	$$(SAY)$$(LINK)
$1/bin/%: tools/%.c build/line | $1/bin
	$$(SAY)$$(LINK)
$1/obj/%.o: tools/%.c build/line | $1/obj
	$$(SAY)$$(COMPILE) $$(SANITIZE) -c -o $$@ $$<
$1/test_%: tests/test_%.c build/line | $1
	$$(SAY)$$(LINK)
$1/test_plugin: | $(patsubst %,$1/plugin_%.so,example $(BAD_PLUGINS))
$1/plugin_example.so: tests/plugin_example.c build/line | $1
	$$(SAY)$$(PLUGIN)
$(patsubst %,$1/plugin_%.so,$(BAD_PLUGINS)): $1/plugin_%.so: tests/plugin_bad.c build/line | $1
	$$(SAY)$$(PLUGIN) -DBAD_$$*
$1 $1/bin $1/obj:
	@mkdir -p $$@
endef
$(eval $(call VARIANT,build))
$(eval $(call VARIANT,build/asan))
$(eval $(call VARIANT,build/tsan))
SANE  = -fno-sanitize-recover=all -fno-omit-frame-pointer
build/test_%: SANITIZE = -O1 -g1 # in half the time; the programs are tested as they are built
build/asan/%: SANITIZE = -O1 -g1 -fsanitize=address,undefined $(SANE)
build/tsan/%: SANITIZE = -O1 -g1 -fsanitize=thread

ifeq ($(shell pkg-config --exists glib-2.0 && echo yes),yes) # what the cache is measured beside
build/bench/bench_cache: FEATURES += -DBENCH_GLIB $(patsubst -I%,-isystem %,$(shell pkg-config --cflags glib-2.0))
build/bench/bench_cache: LDLIBS += $(shell pkg-config --libs glib-2.0)
endif
build/bench/%: bench/%.c build/line | build/bench
	$(SAY)$(LINK)
build/rough/%: bench/%.c build/line | build/rough
	$(SAY)$(LINK)
build/rough/%: SANITIZE = -O0 -g0
build/fuzz/%: tests/%.c build/line | build/fuzz
	$(SAY)$(LINK)
build/fuzz/%: CC = clang
build/fuzz/%: SANITIZE = -fsanitize=fuzzer,address,undefined $(SANE)
build/bench build/rough build/fuzz:
	@mkdir -p $@

# Changes when the compiler line does, for instance because a library was installed.
build/line: always | build
	@echo '$(COMPILE) $(LDFLAGS) $(LDLIBS)' > $@.new
	@cmp -s $@.new $@ && rm $@.new || mv $@.new $@
.PHONY: always
.DELETE_ON_ERROR:

# The libraries are looked for after they were installed: hence a make of its own.
demo:
	@tests/install.sh demo
	@$(MAKE) --no-print-directory -j$(JOBS) tools
	@tests/demo.sh
test:
	@tests/install.sh test
	@MAKE='$(MAKE)' JOBS=$(JOBS) tests/run.sh

soak:
	@tests/install.sh test
	@MAKE='$(MAKE)' JOBS=$(JOBS) tests/soak.sh $(SOAK)

bench: tools benches
	@bench/report.py
bench-quick: tools benches
	@bench/report.py --quick
bench-peers:
	@tests/install.sh bench
	@bench/peers.sh
	@$(MAKE) --no-print-directory tools benches
	@bench/report.py --quick --peers

# What it found, and what got it further, stays in build/fuzz/.
FUZZ         ?= $(patsubst tests/fuzz_%.c,%,$(wildcard tests/fuzz_*.c))
FUZZ_SECONDS ?= 60
fuzz: $(FUZZ:%=build/fuzz/fuzz_%)
	@for f in $(FUZZ); do echo "== $$f"; mkdir -p build/fuzz/$$f.corpus; \
	    test -d tests/fuzz/$$f && seeds=tests/fuzz/$$f || seeds=; \
	    build/fuzz/fuzz_$$f -max_total_time=$(FUZZ_SECONDS) -timeout=60 -rss_limit_mb=4096 \
	        -artifact_prefix=build/fuzz/$$f. build/fuzz/$$f.corpus $$seeds || exit 1; done

to := $(DESTDIR)$(PREFIX)
install: tools
	install -d '$(to)/include' '$(to)/bin' '$(to)/share/pkgconfig'
	install -m 644 $(HEADERS) '$(to)/include'
	install $(TOOLS:%=build/%) '$(to)/bin'
	install -d '$(to)/share/bash-completion/completions'
	install -m 644 tools/fsb.bash '$(to)/share/bash-completion/completions/fsb'
	printf '%s\n' 'Name: fsb' 'Description: file-system building blocks, drop-in C headers' \
	    'Version: $(VERSION)' 'Cflags: -I$(PREFIX)/include -pthread' 'Libs: -pthread' \
	    > '$(to)/share/pkgconfig/fsb.pc'

# A Debian package of what install puts into /usr; what it depends on is read from the programs.
DEB := build/deb/fsb
deb: tools
	@command -v dpkg-deb >/dev/null && command -v dpkg-shlibdeps >/dev/null || \
	    { echo 'deb: no dpkg-deb or dpkg-shlibdeps: apt-get install dpkg-dev'; exit 1; }
	@rm -rf build/deb
	@$(MAKE) --no-print-directory -s install DESTDIR='$(CURDIR)/$(DEB)' PREFIX=/usr
	@strip $(DEB)/usr/bin/*
	@install -D -m 644 LICENSE $(DEB)/usr/share/doc/fsb/copyright
	@mkdir -p build/deb/debian $(DEB)/DEBIAN
	@printf 'Source: fsb\n\nPackage: fsb\nArchitecture: any\n' > build/deb/debian/control
	@set -e; cd build/deb; needs=$$(dpkg-shlibdeps -O fsb/usr/bin/* | sed 's/^shlibs:Depends=//'); \
	{ printf '%s\n' 'Package: fsb' 'Version: $(VERSION)' 'Section: utils' 'Priority: optional' \
	    "Architecture: $$(dpkg --print-architecture)" "Depends: $$needs" 'Recommends: fuse3' \
	    'Maintainer: the authors of fsb <fsb@localhost>' \
	    "Installed-Size: $$(du -sk fsb/usr | cut -f1)" \
	    'Description: file-system building blocks' \
	    ' Serve a folder, mount it on another machine, work in it as if it were local:' \
	    ' programs, and the drop-in C headers that they are made of.'; } > fsb/DEBIAN/control
	@dpkg-deb --root-owner-group --build $(DEB) build | tail -n 1

cross:
	@tests/cross.sh

blocks:
	@for h in $(HEADERS); do for b in common vtable; do \
	    begin="^/\* ==== fsb $$b "; end="^/\* ==== end of fsb $$b "; \
	    grep -q "$$end" $$h || continue; \
	    sed -i -e "\|$$begin|,\|$$end|{\|$$end|r tests/blocks/$$b.h" -e 'd}' $$h; \
	done; done

clean:
	rm -rf build

-include $(wildcard build/*.d build/*/*.d build/*/*/*.d)
