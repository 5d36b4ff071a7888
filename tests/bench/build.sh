# shellcheck shell=bash
# build.sh - what every benchmark begins with; source it after lib.sh.
#
#   bench_build      builds the release preset's programs (seconds when they are built); asks for root
#                    and Docker first, which most need
#   bench_compile    the same, for those that need neither

ND_BIN_DIR=$ND_ROOT/build/release/bin

bench_build() {
  ((EUID == 0)) || die "needs root, for Docker and netfilter"
  docker_up || die "no Docker answers at $docker_socket"
  bench_compile
}

bench_compile() {
  mkdir -p "$ND_ROOT/build"
  (cd "$ND_ROOT" && cmake --preset release && cmake --build build/release -j 2 --target \
    nextdeployd ndctl nd-worker nd-init nd-sample nd-load nd-bench-deploy nd-bench-slow \
    nd-bench-logs nd-test-host) \
    >"$ND_ROOT/build/bench.log" 2>&1 || { tail -n 20 "$ND_ROOT/build/bench.log"; die "it doesn't build"; }
}
