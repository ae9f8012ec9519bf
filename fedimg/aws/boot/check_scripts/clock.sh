# Run by sh, as root, on a test instance: compare its clock with a web server's Date header.
# Standard input has "date URL" and "tolerance SECONDS" lines, then "end".
# Exit status 77: no server is configured, or curl is not installed.
export LC_ALL=C
url= tolerance=
while read -r what value; do
    case $what in
        end) break ;;
        date) url=$value ;;
        tolerance) tolerance=$value ;;
    esac
done
[ -n "$url" ] || { echo "ec2.test.clock names no server to compare the clock with"; exit 77; }
command -v curl >/dev/null || { echo "curl is not installed"; exit 77; }

before=$(date +%s)
answer=$(curl --disable --silent --show-error --globoff --head --max-time 30 --retry 2 \
    --proto =http,https --url "$url" 2>&1) || { echo "$answer"; exit 1; }
after=$(date +%s)
date_header=$(printf '%s\n' "$answer" | tr -d '\r' | sed -n 's/^[Dd][Aa][Tt][Ee]: *//p' | tail -n 1)
server_time=$(date -d "$date_header" +%s 2>/dev/null)
if [ -z "$date_header" ] || [ -z "$server_time" ]; then
    echo "the answer of $url has no Date header"
    exit 1
fi
off=0
[ "$server_time" -ge "$before" ] || off=$((before - server_time))
[ "$server_time" -le "$after" ] || off=$((server_time - after))
echo "the clock differs by $off s from that of $url"
[ "$off" -le "$tolerance" ]
