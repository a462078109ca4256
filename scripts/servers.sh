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
# A further server (Kafka) gets its own find_… function, its pom beside zookeeper.pom.xml, and a line in find_servers.

KEEPSTEP_TEST_CACHE="${KEEPSTEP_TEST_CACHE:-${HOME:?HOME is not set}/.cache/keepstep-test}"
SCRIPTS="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
ZOOKEEPER_VERSION=3.9.5 # the same number stands in zookeeper.pom.xml

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

# install_package redis|java|maven|zookeeper: 1 when this distribution has no such package or it cannot be installed.
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

# Brings the jars from Maven Central into the cache, whole or not at all.
download_zookeeper() {
  local jars="$1" fresh
  command -v mvn >/dev/null || install_package maven || return 1
  command -v mvn >/dev/null || return 1
  say "  bringing ZooKeeper $ZOOKEEPER_VERSION from Maven Central"
  mkdir -p "$KEEPSTEP_TEST_CACHE"
  fresh="$(mktemp -d "$KEEPSTEP_TEST_CACHE/zookeeper.XXXXXX")" || return 1
  if mvn -q -B -f "$SCRIPTS/zookeeper.pom.xml" dependency:copy-dependencies \
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
    if [ -e "$jars/zookeeper-$ZOOKEEPER_VERSION.jar" ] || download_zookeeper "$jars"; then
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

find_servers() {
  find_redis
  find_java
  find_zookeeper
  local version
  version="$(zookeeper_version)"
  [ -n "$version" ] || fail "no ZooKeeper answers on the class path $KEEPSTEP_TEST_ZOOKEEPER_CLASSPATH"
  say "  redis      $(redis_version "$KEEPSTEP_TEST_REDIS")  $KEEPSTEP_TEST_REDIS"
  say "  zookeeper  $version  $KEEPSTEP_TEST_ZOOKEEPER_CLASSPATH"
  say "  java       $KEEPSTEP_TEST_JAVA"
}
