#!/usr/bin/env bash
# Installs the outside programs that the system tests and the bench drive, at pinned versions, into the user's cache
# directory, and Debian packages when it runs as root. What is there already at the right version is left alone. What
# cannot be installed costs one line that says what is missing and how to get it; the tests then report a counted skip,
# or a failure when CI=true.
set -uo pipefail

MINIO_VERSION=v0.0.0-20260212201848-7aac2a2c5b7c
MC_VERSION=v0.0.0-20250313080218-cf909e1063a9
# Only the bench of the cluster drives it. Not 3.7.3: members that were sent a snapshot hung there, in two runs of two.
ETCD_VERSION=v3.6.16
# The tests look for the same version: BOTO3_VERSION in compat-tests/src/client/boto3.rs.
BOTO3_VERSION=1.44.8
# The tests look for the same version: VERSION in compat-tests/src/client/duckdb.rs; the extension has its own number, which is the same.
DUCKDB_VERSION=1.5.5
# Makes the tables of TPC-H; in DuckDB's environment, which is named by both: TPCHGEN_VERSION in compat-tests/src/client/duckdb.rs.
TPCHGEN_VERSION=4.0.0
# The tests look for the same version: VERSION in compat-tests/src/brokers/kafka.rs.
KAFKA_VERSION=3.9.1
# The tests look for the same version: FSX_VERSION in compat-tests/src/workloads/fsx.rs.
FSX_VERSION=0.3.2

cache=${HOLDFAST_TOOLS:-$HOME/.cache/holdfast}
bin=$cache/bin
mkdir -p "$bin"
missing=0

lacks() { # what, how to get it
  echo "tools: missing $1: $2" >&2
  missing=$((missing + 1))
}

# A Go program: package path, version. The binary itself records the version it was built from.
go_program() {
  local package=$1 version=$2 name
  name=$(basename "$package")
  if ! command -v go >/dev/null; then
    [ -x "$bin/$name" ] || lacks "$name" "install Go 1.24 or newer, then: GOBIN=$bin go install $package@$version"
    return
  fi
  if [ -x "$bin/$name" ] && go version -m "$bin/$name" 2>/dev/null | grep -q "[[:space:]]$version\([[:space:]]\|$\)"; then
    return
  fi
  echo "tools: building $name $version (some minutes, once)"
  GOBIN=$bin GOFLAGS=-buildvcs=false CGO_ENABLED=0 go install -trimpath -ldflags '-s -w' "$package@$version" ||
    lacks "$name" "GOBIN=$bin go install $package@$version"
}

# A Go program whose module replaces others, which `go install` refuses: built as a dependency of an empty module.
# Name, package path, version.
go_dependency() {
  local name=$1 package=$2 version=$3 dir
  if ! command -v go >/dev/null; then
    [ -x "$bin/$name" ] || lacks "$name" "install Go 1.24 or newer and run this again; or install $name $version yourself"
    return
  fi
  if [ -x "$bin/$name" ] && go version -m "$bin/$name" 2>/dev/null | grep -q "[[:space:]]$package[[:space:]]$version"; then
    return
  fi
  echo "tools: building $name $version (a minute, once)"
  dir=$(mktemp -d)
  (cd "$dir" && go mod init tools && go get "$package@$version" &&
    CGO_ENABLED=0 go build -buildvcs=false -trimpath -ldflags '-s -w' -o "$bin/$name" "$package") >/dev/null 2>&1 ||
    lacks "$name" "go build $package@$version as a dependency of an empty module"
  rm -rf "$dir"
}

# Kafka's broker with all that it needs, from where Maven finds it.
kafka() {
  local jars=$cache/kafka-$KAFKA_VERSION dir
  [ -f "$jars/complete" ] && return
  if ! command -v mvn >/dev/null; then
    lacks Kafka "apt-get install maven default-jre-headless and run this again"
    return
  fi
  echo "tools: fetching Kafka $KAFKA_VERSION"
  dir=$(mktemp -d)
  cat >"$dir/pom.xml" <<POM
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion><groupId>tools</groupId><artifactId>kafka</artifactId><version>1</version>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>$KAFKA_VERSION</version></dependency>
    <dependency><groupId>org.slf4j</groupId><artifactId>slf4j-nop</artifactId><version>1.7.36</version></dependency>
  </dependencies>
</project>
POM
  if mvn -q -B -f "$dir/pom.xml" dependency:copy-dependencies "-DoutputDirectory=$jars" >/dev/null 2>&1; then
    touch "$jars/complete"
  else
    lacks Kafka "mvn dependency:copy-dependencies of org.apache.kafka:kafka_2.13:$KAFKA_VERSION into $jars"
  fi
  rm -rf "$dir"
}

boto3() {
  local venv=$cache/boto3-$BOTO3_VERSION
  "$venv/bin/python" -c "import boto3, awscrt; assert boto3.__version__ == '$BOTO3_VERSION'" 2>/dev/null && return
  echo "tools: installing boto3 $BOTO3_VERSION"
  rm -rf "$venv"
  if python3 -m venv "$venv" &&
    "$venv/bin/pip" install --quiet --disable-pip-version-check "boto3[crt]==$BOTO3_VERSION"; then
    return
  fi
  lacks boto3 "python3 -m venv $venv && $venv/bin/pip install 'boto3[crt]==$BOTO3_VERSION'"
}

# The peer of SQL, with what reads from S3, and the generator of TPC-H.
duckdb() {
  local venv=$cache/duckdb-$DUCKDB_VERSION-tpchgen-$TPCHGEN_VERSION wanted
  [ -f "$venv/complete" ] && return
  echo "tools: installing DuckDB $DUCKDB_VERSION and tpchgen-cli $TPCHGEN_VERSION"
  wanted="duckdb==$DUCKDB_VERSION duckdb-extension-httpfs==$DUCKDB_VERSION tpchgen-cli==$TPCHGEN_VERSION"
  rm -rf "$venv"
  # shellcheck disable=SC2086
  if python3 -m venv "$venv" && "$venv/bin/pip" install --quiet --disable-pip-version-check $wanted &&
    "$venv/bin/python" -c "import duckdb, duckdb_extension_httpfs; assert duckdb.__version__ == '$DUCKDB_VERSION'"; then
    touch "$venv/complete"
    return
  fi
  lacks DuckDB "python3 -m venv $venv && $venv/bin/pip install $wanted && touch $venv/complete"
}

# Debian packages, each with a program that proves it is there.
debian() {
  local wanted=() pair package program
  # In /usr/sbin, which is not in every user's PATH.
  local PATH=$PATH:/usr/sbin:/sbin
  for pair in awscli:/usr/bin/aws rclone:rclone s3fs:s3fs fuse3:fusermount3 curl:curl python3-venv:python3 iproute2:ip iptables:iptables faketime:faketime \
    nats-server:/usr/sbin/nats-server redis-server:redis-server postgresql:/usr/lib/postgresql mosquitto:/usr/sbin/mosquitto \
    mosquitto-clients:mosquitto_sub rabbitmq-server:/usr/lib/rabbitmq/bin/rabbitmq-server default-jre-headless:java maven:mvn \
    qemu-system-x86:qemu-system-x86_64 busybox-static:busybox cpio:cpio e2fsprogs:mke2fs sqlite3:sqlite3 git:git dbench:dbench fio:fio \
    attr:getfattr acl:setfacl gcc:gcc make:make; do
    package=${pair%%:*} program=${pair#*:}
    [ -e "$program" ] || command -v "$program" >/dev/null || wanted+=("$package")
  done
  # venv without ensurepip cannot make an environment; Debian ships it apart.
  python3 -c 'import ensurepip, venv' 2>/dev/null || wanted+=(python3-venv)
  [ ${#wanted[@]} -eq 0 ] && return
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "tools: installing Debian packages: ${wanted[*]}"
    if DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 update >/dev/null &&
      DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "${wanted[@]}" >/dev/null; then
      return
    fi
  fi
  for package in "${wanted[@]}"; do lacks "$package" "apt-get install $package"; done
}

# The kernel of the virtual machine that the mount tests boot: Debian's cloud kernel, unpacked and never installed. What the
# archive offers changes, so it is kept by its version and found by the link `kernel`.
kernel() {
  local link=$cache/kernel name dir kept
  [ -f "$link/complete" ] && return
  dir=$(mktemp -d)
  name=$(apt-cache depends linux-image-cloud-amd64 2>/dev/null | sed -n 's/.*Depends: \(linux-image-[^ ]*\)/\1/p')
  if [ -n "$name" ] && (chmod 755 "$dir" && cd "$dir" && apt-get -qq download "$name" && dpkg-deb -x ./*.deb tree) >/dev/null 2>&1; then
    kept=$cache/$name
    echo "tools: unpacking $name"
    rm -rf "$kept" && mkdir -p "$kept/modules"
    # Of the 106 MB only these are used: ext4 is built in, the disk's driver is not.
    if cp "$dir"/tree/boot/vmlinuz-* "$kept/vmlinuz" && cp "$dir"/tree/lib/modules/*/kernel/drivers/virtio/*.ko \
      "$dir"/tree/lib/modules/*/kernel/drivers/block/virtio_blk.ko "$kept/modules"; then
      touch "$kept/complete" && ln -sfn "$name" "$link"
      rm -rf "$dir"
      return
    fi
  fi
  rm -rf "$dir"
  lacks "a guest kernel" "on Debian: apt-get update, and run this again"
}

# A Rust program, built apart: name, version.
rust_program() {
  local name=$1 version=$2 root=$cache/$1-$2 dir
  [ -x "$root/bin/$name" ] && return
  if ! command -v cargo >/dev/null; then
    lacks "$name" "install Rust, then: cargo install $name --version $version --root $root"
    return
  fi
  echo "tools: building $name $version (some minutes, once)"
  dir=$(mktemp -d)
  CARGO_TARGET_DIR=$dir cargo install --quiet "$name" --version "$version" --locked --root "$root" ||
    lacks "$name" "cargo install $name --version $version --locked --root $root"
  rm -rf "$dir"
}

debian
kernel
rust_program fsx $FSX_VERSION
boto3
duckdb
kafka
go_program github.com/minio/minio $MINIO_VERSION
go_program github.com/minio/mc $MC_VERSION
if [ "${HOLDFAST_TOOLS_ETCD:-}" = true ]; then
  go_dependency etcd go.etcd.io/etcd/server/v3 $ETCD_VERSION
  go_dependency etcdctl go.etcd.io/etcd/etcdctl/v3 $ETCD_VERSION
fi

# Only a run that demands everything fails here; for everyone else the tests report the skips.
if [ "$missing" -gt 0 ] && [ "${CI:-}" = true ]; then exit 1; fi
exit 0
