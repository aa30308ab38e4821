#!/bin/busybox sh
# The first and only process of the guest. The kernel's command line says what to do: job=work|verify|poweroff, from=N (the
# first step), steps=N (0: without end). What it prints is read by vm.rs.
/bin/busybox mkdir -p /proc /dev /m
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t devtmpfs dev /dev
# A message of the kernel in the middle of a line would spoil it.
dmesg -n 1
job=poweroff from=1 steps=0 keep=1 blocks=1
for word in $(cat /proc/cmdline); do
  case $word in job=* | from=* | steps=* | keep=* | blocks=*) eval "$word" ;; esac
done

fail() {
  echo "FAILED $*"
  poweroff -f
}

while read -r module; do
  insmod "/modules/$module.ko" || fail "insmod $module"
done </modules/order
echo "UP $(cut -d ' ' -f 1 /proc/uptime)"

# Step 2r-1: a new file, written, synced, named by a rename, and the rename synced; an old file goes.
file_step() {
  dd if=/dev/urandom of=/m/new bs=64k count=2 conv=fsync 2>/dev/null || return 1
  sum=$(md5sum </m/new | cut -c 1-32)
  mv /m/new "/m/f/$1" || return 1
  old=$(($1 - keep))
  [ $old -lt 1 ] || rm -f "/m/f/$old" || return 1
  sync
}

# Step 2r: one block of a file, in place, with nothing but fsync.
block_step() {
  sum=block
  yes "$1" | dd of=/m/db bs=4k count=1 seek=$(($1 % blocks)) iflag=fullblock conv=notrunc,fsync 2>/dev/null
}

work() {
  mount -t ext4 /dev/vda /m || fail mount
  if [ ! -d /m/f ]; then
    mkdir /m/f
    dd if=/dev/zero of=/m/db bs=4k count="$blocks" conv=fsync 2>/dev/null || fail "first write"
    sync
  fi
  echo "BARRIER $((from - 1)) start"
  n=$from
  while [ "$steps" = 0 ] || [ "$n" -lt $((from + steps)) ]; do
    if [ $((n % 2)) = 1 ]; then file_step $(((n + 1) / 2)); else block_step $((n / 2)); fi || fail "step $n"
    # A file system that went read-only after an error acknowledges nothing more.
    touch /m/alive || fail "read-only at step $n"
    echo "BARRIER $n $sum"
    n=$((n + 1))
  done
  umount /m || fail umount
}

verify() {
  mount -t ext4 /dev/vda /m || fail mount
  for file in /m/f/*; do
    [ -f "$file" ] && echo "FILE ${file##*/} $(md5sum <"$file" | cut -c 1-32)"
  done
  b=0
  while [ $b -lt "$blocks" ]; do
    dd if=/m/db of=/block bs=4k count=1 skip=$b 2>/dev/null
    echo "BLOCK $b $(md5sum </block | cut -c 1-32)"
    b=$((b + 1))
  done
  umount /m || fail umount
}

case $job in
  work) work ;;
  verify) verify ;;
esac
echo "DONE $(cut -d ' ' -f 1 /proc/uptime)"
poweroff -f
