# Process 1 of an emulated instance: ec2_init.sh FOLDER NAME ADDRESS/30 GATEWAY MINUTE
# It has its own processes, mounts, name and network; the files of this machine are below it, so /etc/ssh, /run and /home
# are covered, and every program that could end a machine is replaced by one that ends only this namespace.
d=$1; hostname "$2"
mount --make-rprivate /; mount -t proc proc /proc
for place in /run /home /etc/ssh /usr/local/sbin; do mount -t tmpfs tmpfs $place; done
mkdir -p /run/sshd /home/ubuntu/.ssh

cat > /usr/local/sbin/shutdown <<SHIM
#!/bin/bash
case \$(basename "\$0") in
  sudo) while [[ \$1 == -* ]]; do shift; done; exec "\$@";;
  systemctl) [[ \$1 == restart ]] && kill -HUP \$(cat /run/sshd.pid); exit;;
  poweroff|halt|reboot) set -- now;;
esac
for word in "\$@"; do case \$word in +*) minutes=\${word#+};; now) minutes=0;; -c) cancel=1;; esac; done
[[ -e /run/shutdown.pid ]] && kill \$(cat /run/shutdown.pid) 2>/dev/null
[[ \$cancel ]] && exit
setsid bash -c "sleep \$(awk "BEGIN{print \${minutes:-1} * $5}"); kill -TERM 1" </dev/null >/dev/null 2>&1 &
echo \$! > /run/shutdown.pid
SHIM
chmod +x /usr/local/sbin/shutdown
for name in poweroff halt reboot sudo systemctl; do ln -s shutdown /usr/local/sbin/$name; done
for name in shutdown poweroff halt reboot systemctl; do
  for real in /usr/sbin/$name /sbin/$name /usr/bin/$name /bin/$name; do
    if [[ -e $real ]]; then mount --bind /usr/local/sbin/shutdown "$(readlink -f $real)" 2>/dev/null; fi
  done
done
printf '#!/bin/sh\nexit 1\n' > /usr/local/sbin/systemd-run
printf '#!/bin/sh\necho apt-get "$@"\n' > /usr/local/sbin/apt-get   # nothing is installed on this machine
chmod +x /usr/local/sbin/systemd-run /usr/local/sbin/apt-get

# The image's user may use sudo without a password; here it is root by another name.
{ echo 'ubuntu:x:0:0::/home/ubuntu:/bin/bash'; grep -v '^ubuntu:' /etc/passwd; } > /run/passwd; mount --bind /run/passwd /etc/passwd
cp "$d/authorized_keys" /home/ubuntu/.ssh/authorized_keys; chmod 700 /home/ubuntu/.ssh; chmod 600 /home/ubuntu/.ssh/authorized_keys
export HOME=/home/ubuntu PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

until [[ -e /sys/class/net/eth0 ]] || ip link show eth0 >/dev/null 2>&1; do sleep 0.02; done
ip link set lo up; ip addr add 169.254.169.254/32 dev lo
ip addr add "$3" dev eth0; ip link set eth0 up
touch "$d/network"

trap 'exit 0' TERM INT
ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/ssh_host_ed25519_key   # as the image does; the user-data replaces it
/usr/sbin/sshd -f /dev/null -D -e -p 22 -h /etc/ssh/ssh_host_ed25519_key -o UsePAM=no -o PidFile=/run/sshd.pid -o StrictModes=no \
  -o PasswordAuthentication=no -o AuthorizedKeysFile=/home/ubuntu/.ssh/authorized_keys -o Subsystem="sftp internal-sftp" &
until [[ -s /run/sshd.pid ]]; do sleep 0.02; done
[[ -s $d/user-data ]] && { cd /; bash "$d/user-data" > "$d/user-data.log" 2>&1 & }
while :; do wait -n || sleep 0.2; done
