# shellcheck shell=bash
# Sourced by ./check and ./quickstart: finds the servers that tests run on, and installs what is missing.
#
# Nothing is started here and no system service is set up: packages are chosen so that they carry programs only
# (Debian's redis-tools and libzookeeper-java instead of redis-server and zookeeperd), and the tests start private
# servers on free ports in temporary directories.
#
# After `find_servers` these are exported; each may also be set beforehand to test against another build:
#   KEEPSTEP_TEST_REDIS                 path of redis-server (or valkey-server), 7.0 or newer
#   KEEPSTEP_TEST_JAVA                  path of java, 11 or newer
#   KEEPSTEP_TEST_ZOOKEEPER_CLASSPATH   class path of a ZooKeeper server, e.g. /usr/share/java/zookeeper.jar
#   KEEPSTEP_TEST_KAFKA_CLASSPATH       class path of a Kafka broker, 3.9 or newer (needs Java 17)
#   KEEPSTEP_TEST_PYTHON                path of a python3 that has confluent-kafka and fastavro
# A further server gets its own find_… function, its pom beside zookeeper.pom.xml, and a line in find_servers.

KEEPSTEP_TEST_CACHE="${KEEPSTEP_TEST_CACHE:-${HOME:?HOME is not set}/.cache/keepstep-test}"
SCRIPTS="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
ZOOKEEPER_VERSION=3.9.5 # the same number stands in zookeeper.pom.xml
KAFKA_VERSION=4.1.1     # the same number stands in kafka.pom.xml

say() { printf '%s\n' "$*" >&2; }
fail() {
  say "error: $*"
  exit 1
}

as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo -n "$@"
  else
    say "this needs root, and there is no sudo: $*"
    return 1
  fi
}

# with_threads COUNT COMMAND…: so many test threads for each processor, unless RUST_TEST_THREADS says otherwise.
with_threads() {
  local count=$(($1 * $(getconf _NPROCESSORS_ONLN)))
  shift
  RUST_TEST_THREADS="${RUST_TEST_THREADS:-$count}" "$@"
}

# The tests on servers mostly wait: for a server, or for their turn, since the suite itself bounds how many servers, brokers and
# workers there are at a time. A thread that waits for its turn costs nothing; with few threads, all of them wait for the same
# turn while the processors have nothing to do.
on_servers() { with_threads 16 cargo test --locked --features failpoints --test it "$@"; }

package_manager() {
  local manager
  for manager in apt-get dnf apk brew; do
    if command -v "$manager" >/dev/null; then
      echo "$manager"
      return
    fi
  done
  echo none
}

# install_package redis|java|maven|zookeeper|python|make: 1 when this distribution has no such package or it cannot be installed.
install_package() {
  local manager name
  manager="$(package_manager)"
  case "$1:$manager" in
    redis:apt-get) name=redis-tools ;; # the server's program without the service: redis-server links to redis-check-rdb
    redis:*) name=redis ;;
    java:apt-get) name=default-jre-headless ;;
    java:dnf) name=java-21-openjdk-headless ;;
    java:apk) name=openjdk17-jre-headless ;;
    java:brew) name=openjdk ;;
    maven:*) name=maven ;;
    zookeeper:apt-get) name=libzookeeper-java ;;
    make:*) name=make ;;
    python:apt-get) name=python3-venv ;;
    python:brew) name=python ;;
    python:*) name=python3 ;;
    *) return 1 ;;
  esac
  say "  installing $name with $manager"
  mkdir -p "$KEEPSTEP_TEST_CACHE"
  if ! with_manager "$manager" "$name" </dev/null >"$KEEPSTEP_TEST_CACHE/install.log" 2>&1; then
    tail -20 "$KEEPSTEP_TEST_CACHE/install.log" >&2
    return 1
  fi
}

with_manager() {
  case "$1" in
    apt-get)
      if [ -z "${APT_UPDATED:-}" ]; then
        as_root apt-get -qq -o DPkg::Lock::Timeout=300 update || return 1
        APT_UPDATED=1
      fi
      as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends \
        -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 install "$2"
      ;;
    dnf) as_root dnf -q -y install "$2" ;;
    apk) as_root apk add -q "$2" ;;
    brew) brew install -q "$2" ;;
    *) return 1 ;;
  esac
}

# redis_version PROGRAM: "7.0.15"; empty when it is not a Redis or Valkey server.
redis_version() { "$1" --version 2>/dev/null | sed -n 's/^[A-Za-z]* server v=\([0-9.]*\).*/\1/p'; }

# at_least VERSION MAJOR
at_least() { [ -n "$1" ] && [ "${1%%.*}" -ge "$2" ]; }

installed_redis() {
  local candidate
  for candidate in redis-server valkey-server "$KEEPSTEP_TEST_CACHE/bin/redis-server"; do
    candidate="$(command -v "$candidate")" || continue
    if at_least "$(redis_version "$candidate")" 7; then
      echo "$candidate"
      return
    fi
  done
  return 1
}

find_redis() {
  if [ -z "${KEEPSTEP_TEST_REDIS:-}" ] && ! KEEPSTEP_TEST_REDIS="$(installed_redis)"; then
    install_package redis || fail "Redis 7.0 or newer is missing and could not be installed; set KEEPSTEP_TEST_REDIS"
    if ! command -v redis-server >/dev/null && command -v redis-check-rdb >/dev/null; then
      # One program under many names: Debian puts it into redis-tools, and the name it is called by decides.
      mkdir -p "$KEEPSTEP_TEST_CACHE/bin"
      ln -sf "$(command -v redis-check-rdb)" "$KEEPSTEP_TEST_CACHE/bin/redis-server"
    fi
    KEEPSTEP_TEST_REDIS="$(installed_redis)" ||
      fail "the Redis of this distribution is older than 7.0; set KEEPSTEP_TEST_REDIS to a newer redis-server"
  fi
  at_least "$(redis_version "$KEEPSTEP_TEST_REDIS")" 7 || fail "$KEEPSTEP_TEST_REDIS is not a Redis of 7.0 or newer"
  export KEEPSTEP_TEST_REDIS
}

installed_java() {
  local candidate
  for candidate in "${JAVA_HOME:+$JAVA_HOME/bin/java}" java /opt/homebrew/opt/openjdk/bin/java; do
    candidate="$(command -v "${candidate:-none}")" || continue
    # macOS has a java that only says where to get one: ask it to run.
    if "$candidate" -version >/dev/null 2>&1; then
      echo "$candidate"
      return
    fi
  done
  return 1
}

find_java() {
  if [ -z "${KEEPSTEP_TEST_JAVA:-}" ] && ! KEEPSTEP_TEST_JAVA="$(installed_java)"; then
    install_package java || fail "Java 11 or newer is missing and could not be installed; set KEEPSTEP_TEST_JAVA"
    KEEPSTEP_TEST_JAVA="$(installed_java)" || fail "a Java was installed, but none can be run"
  fi
  "$KEEPSTEP_TEST_JAVA" -version >/dev/null 2>&1 || fail "$KEEPSTEP_TEST_JAVA cannot be run"
  export KEEPSTEP_TEST_JAVA
}

# download_jars NAME VERSION DIRECTORY: brings the jars of NAME.pom.xml from Maven Central into the cache, whole or not at
# all.
download_jars() {
  local name="$1" version="$2" jars="$3" fresh
  command -v mvn >/dev/null || install_package maven || return 1
  command -v mvn >/dev/null || return 1
  say "  bringing $name $version from Maven Central"
  mkdir -p "$KEEPSTEP_TEST_CACHE"
  fresh="$(mktemp -d "$KEEPSTEP_TEST_CACHE/$name.XXXXXX")" || return 1
  if mvn -q -B -f "$SCRIPTS/$name.pom.xml" dependency:copy-dependencies \
    -DincludeScope=runtime -DoutputDirectory="$fresh" </dev/null >&2; then
    rm -rf "$jars"
    mv "$fresh" "$jars"
  else
    rm -rf "$fresh"
    return 1
  fi
}

find_zookeeper() {
  local jars="$KEEPSTEP_TEST_CACHE/zookeeper-$ZOOKEEPER_VERSION"
  if [ -z "${KEEPSTEP_TEST_ZOOKEEPER_CLASSPATH:-}" ]; then
    if [ -e "$jars/zookeeper-$ZOOKEEPER_VERSION.jar" ] || download_jars zookeeper "$ZOOKEEPER_VERSION" "$jars"; then
      KEEPSTEP_TEST_ZOOKEEPER_CLASSPATH="$jars/*"
    elif [ -e /usr/share/java/zookeeper.jar ] || install_package zookeeper; then
      KEEPSTEP_TEST_ZOOKEEPER_CLASSPATH=/usr/share/java/zookeeper.jar
      say "  NOTE: ZooKeeper $ZOOKEEPER_VERSION could not be had; testing on the distribution's older version instead"
    else
      fail "ZooKeeper is missing: neither Maven nor the distribution has it; set KEEPSTEP_TEST_ZOOKEEPER_CLASSPATH"
    fi
  fi
  export KEEPSTEP_TEST_ZOOKEEPER_CLASSPATH
}

# The version that the class path gives, as the server says it.
zookeeper_version() {
  "$KEEPSTEP_TEST_JAVA" -cp "$KEEPSTEP_TEST_ZOOKEEPER_CLASSPATH" org.apache.zookeeper.version.VersionInfoMain 2>/dev/null |
    sed -n 's/^Apache ZooKeeper, version \([0-9.]*\).*/\1/p'
}

find_kafka() {
  local jars="$KEEPSTEP_TEST_CACHE/kafka-$KAFKA_VERSION"
  if [ -z "${KEEPSTEP_TEST_KAFKA_CLASSPATH:-}" ]; then
    [ -e "$jars/kafka-tools-$KAFKA_VERSION.jar" ] || download_jars kafka "$KAFKA_VERSION" "$jars" ||
      fail "Kafka is missing and Maven could not bring it; set KEEPSTEP_TEST_KAFKA_CLASSPATH"
    KEEPSTEP_TEST_KAFKA_CLASSPATH="$jars/*"
  fi
  export KEEPSTEP_TEST_KAFKA_CLASSPATH
}

# A Python that reads the stream as docs/consume.md does: a virtual environment in the cache.
find_python() {
  local venv="$KEEPSTEP_TEST_CACHE/python"
  if [ -z "${KEEPSTEP_TEST_PYTHON:-}" ]; then
    KEEPSTEP_TEST_PYTHON="$venv/bin/python"
    if ! reads_kafka "$KEEPSTEP_TEST_PYTHON"; then
      say "  bringing confluent-kafka and fastavro from PyPI"
      python3 -m venv --clear "$venv" >&2 || { install_package python && python3 -m venv --clear "$venv" >&2; } ||
        fail "python3 with venv is missing and could not be installed; set KEEPSTEP_TEST_PYTHON"
      "$venv/bin/pip" install -q --disable-pip-version-check confluent-kafka==2.12.2 fastavro==1.12.1 >&2 ||
        fail "confluent-kafka and fastavro could not be installed; set KEEPSTEP_TEST_PYTHON"
    fi
  fi
  reads_kafka "$KEEPSTEP_TEST_PYTHON" || fail "$KEEPSTEP_TEST_PYTHON has no confluent-kafka and fastavro"
  export KEEPSTEP_TEST_PYTHON
}

reads_kafka() { "$1" -c 'import confluent_kafka, fastavro' >/dev/null 2>&1; }

# The version that the class path gives, as the broker says it.
kafka_version() {
  "$KEEPSTEP_TEST_JAVA" -cp "$KEEPSTEP_TEST_KAFKA_CLASSPATH" kafka.Kafka --version 2>/dev/null | sed -n 's/^\([0-9.]*\).*/\1/p'
}

# librdkafka is built by make; whoever has a C compiler usually has it.
find_make() {
  command -v make >/dev/null || install_package make || fail "make is missing and could not be installed"
}

# archive JARS FUNCTION: the classes that a server loads, kept beside its jars by one run of it in an empty directory. FUNCTION writes
# its configuration and sets `main`. Every start after that takes half the processor time. Does without where that fails (before
# Java 13).
archive() {
  local jars="$1" file="$1.jsa" java folder main=() pid
  java="$("$KEEPSTEP_TEST_JAVA" -version 2>&1)"
  if [ ! -d "$jars" ] || { [ -e "$file" ] && [ "$(cat "$file.java" 2>/dev/null)" = "$java" ]; }; then return; fi
  say "  keeping the loaded classes of $(basename "$jars")"
  folder="$(mktemp -d)"
  pushd "$folder" >/dev/null || return
  "$2" "$jars/*" $((20000 + RANDOM % 10000))
  "$KEEPSTEP_TEST_JAVA" -Xmx256m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 "-XX:ArchiveClassesAtExit=$file.new" -cp "$jars/*" \
    "${main[@]}" >/dev/null 2>&1 &
  pid=$!
  sleep 10
  # It may have ended by itself, and ends by a signal otherwise: whether it left an archive is all that counts.
  kill "$pid" 2>/dev/null || true
  wait "$pid" || true
  if [ -e "$file.new" ]; then
    mv -f "$file.new" "$file" && printf '%s' "$java" >"$file.java"
  fi
  popd >/dev/null || return
  rm -rf "$folder"
}

a_zookeeper() {
  printf '%s\n' dataDir=data clientPortAddress=127.0.0.1 "clientPort=$2" admin.enableServer=false >zoo.cfg
  main=(org.apache.zookeeper.server.quorum.QuorumPeerMain zoo.cfg)
}

a_kafka() {
  printf '%s\n' process.roles=broker,controller node.id=1 "controller.quorum.voters=1@127.0.0.1:$(($2 + 1))" log.dirs=data \
    controller.listener.names=CONTROLLER "listeners=PLAINTEXT://127.0.0.1:$2,CONTROLLER://127.0.0.1:$(($2 + 1))" \
    log.cleaner.dedupe.buffer.size=2097152 >kafka.cfg
  "$KEEPSTEP_TEST_JAVA" -cp "$1" kafka.tools.StorageTool format -t MkU3OEVBNTcwNTJENDM2Qg -c kafka.cfg >/dev/null 2>&1
  main=(kafka.Kafka kafka.cfg)
}

find_servers() {
  find_make
  find_redis
  find_java
  find_zookeeper
  find_kafka
  find_python
  archive "$KEEPSTEP_TEST_CACHE/zookeeper-$ZOOKEEPER_VERSION" a_zookeeper
  archive "$KEEPSTEP_TEST_CACHE/kafka-$KAFKA_VERSION" a_kafka
  local version
  version="$(zookeeper_version)"
  [ -n "$version" ] || fail "no ZooKeeper answers on the class path $KEEPSTEP_TEST_ZOOKEEPER_CLASSPATH"
  say "  redis      $(redis_version "$KEEPSTEP_TEST_REDIS")  $KEEPSTEP_TEST_REDIS"
  say "  zookeeper  $version  $KEEPSTEP_TEST_ZOOKEEPER_CLASSPATH"
  version="$(kafka_version)"
  [ -n "$version" ] || fail "no Kafka answers on the class path $KEEPSTEP_TEST_KAFKA_CLASSPATH; it needs Java 17"
  say "  kafka      $version  $KEEPSTEP_TEST_KAFKA_CLASSPATH"
  say "  java       $KEEPSTEP_TEST_JAVA"
  say "  python     $KEEPSTEP_TEST_PYTHON"
}
