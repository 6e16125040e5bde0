#!/bin/sh
# Compile the tests and run their classes in parallel, with Debian's default-jdk-headless, junit5 and
# libjackson2-databind-java. In a project, Maven or Gradle does this.
set -eu
cd "$(dirname "$0")"
jars=/usr/share/java
export CLASSPATH="$jars/junit-jupiter-api.jar:$jars/jackson-databind.jar"
classes=$(mktemp -d)
trap 'rm -rf "$classes"' EXIT

javac -d "$classes" ./*.java
java -jar "$jars/junit-platform-console-standalone.jar" \
  --class-path "$classes:$CLASSPATH" --scan-class-path "$classes" --details=tree --disable-banner \
  --config junit.jupiter.execution.parallel.enabled=true \
  --config junit.jupiter.execution.parallel.mode.classes.default=concurrent
