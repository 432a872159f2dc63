#!/bin/sh
# Answers for every directory of the document root: the path says what is asked for.

answer() {
    body=$(cat && echo .)
    body=${body%.}
    printf 'HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\nCache-Control: no-store\r\nConnection: close\r\n'
    printf 'Content-Length: %s\r\n\r\n%s' "${#body}" "$body"
}

path=${REQUEST_URI%%\?*}
case ${path%/} in
'') hostname ;;
/boot-id) cat /proc/sys/kernel/random/boot_id ;;
/firmware)
    if dmesg | grep -q 'Secure boot enabled'; then
        echo uefi-secure
    elif [ -d /sys/firmware/efi ]; then
        echo uefi
    else
        echo bios
    fi
    [ -e /sys/class/tpm/tpm0 ] && echo tpm
    ;;
/uptime) cut -d ' ' -f 1 /proc/uptime ;;
/nproc) nproc ;;
/meminfo) cat /proc/meminfo ;;
/partitions) cat /proc/partitions ;;
/ssh-authorized-keys) cat /root/.ssh/authorized_keys ;;
/runcmd.log) cat /disk/runcmd.log 2>/dev/null ;;
/instance-id) cat /run/cloud/instance-id ;;
esac | answer
