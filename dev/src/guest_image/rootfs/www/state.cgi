#!/bin/sh
# Keeps a note, so that a test can tell which moment a guest was taken back to: POST stores the body, GET returns the
# last one. As `ram` it is kept in memory, as `disk` on the disk.

case ${SCRIPT_NAME##*/} in
ram) file=/run/note ;;
*) file=/disk/note ;;
esac
if [ "$REQUEST_METHOD" = POST ]; then
    head -c "${CONTENT_LENGTH:-0}" >"$file.new" && mv "$file.new" "$file" && sync
fi
size=0
[ -f "$file" ] && size=$(wc -c <"$file")
printf 'HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\nCache-Control: no-store\r\nConnection: close\r\n'
printf 'Content-Length: %s\r\n\r\n' "$size"
[ -f "$file" ] && cat "$file"
exit 0
