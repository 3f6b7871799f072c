#!/bin/sh
# Become a command in the tree with Docker: its mounts are this process's own, and the tree is the root (a container's
# runtime cannot pivot_root in a mere chroot).
#   enter.sh TREE PROJECT DATA LIBRARY RUN COMMAND...
set -eu
tree=$1 project=$2 data=$3 library=$4 run=$5
shift 5
mount --bind "$tree" "$tree"
cd "$tree"
mount -t proc proc proc
mount -t sysfs sysfs sys
mount --rbind /sys/fs/cgroup sys/fs/cgroup
mount --rbind /dev dev
for memory in run tmp var/log; do mount -t tmpfs tmpfs "$memory"; done
mkdir -p .old srv/project srv/library srv/run var/lib/docker
mount --bind "$project" srv/project
mount --bind -o remount,ro,bind srv/project
mount --bind "$library" srv/library
mount --bind "$run" srv/run
mount --bind "$data" var/lib/docker
pivot_root . .old
cd /srv/project
umount --lazy /.old
exec "$@"
