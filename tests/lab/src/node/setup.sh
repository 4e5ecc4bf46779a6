# Makes the lab's node a machine of its own. Run by sh -eu as root in new mount, network and process namespaces; nothing here reaches
# outside them, and all of it goes with them.
# In: FOLDER (the node's files), LOGS (those of its pods), ADDRESS and GATEWAY (both ends of the link `uplink`, a /30).

mount --make-rprivate /
# What the kubelet mounts has to be seen by containerd, and what a container's runtime mounts by the kubelet.
mount --make-rshared /
mount -t proc proc /proc

# The kubelet insists on these values, which would be those of the whole machine.
while read -r key value; do
    file=$FOLDER/sysctl/$key
    mkdir -p "${file%/*}"
    echo "$value" >"$file"
    mount --bind "$file" "/proc/sys/$key"
done <<SYSCTLS
vm/overcommit_memory 1
vm/panic_on_oom 0
kernel/panic 10
kernel/panic_on_oops 1
kernel/keys/root_maxkeys 1000000
kernel/keys/root_maxbytes 25000000
SYSCTLS

for folder in /run /var/lib /var/log; do
    mount -t tmpfs tmpfs "$folder"
done
for name in kubelet containerd; do
    mkdir -p "/var/lib/$name" "$FOLDER/$name"
    mount --bind "$FOLDER/$name" "/var/lib/$name"
done
mkdir /var/log/pods
mount --bind "$LOGS" /var/log/pods

ip link set lo up
ip address add "$ADDRESS/30" dev uplink
ip link set uplink up
ip route add default via "$GATEWAY"
echo 1 >/proc/sys/net/ipv4/ip_forward
