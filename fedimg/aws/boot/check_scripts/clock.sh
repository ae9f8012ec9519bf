# Run by sh, as root, on a test instance: its clock agrees with a web server's Date.
# Standard input has "date URL" and "tolerance SECONDS" lines, then "end".
# Exit status 77: no server is named, or there is nothing here to ask it with.
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
said=$(curl --disable --silent --show-error --globoff --head --max-time 30 --retry 2 \
    --proto =http,https --url "$url" 2>&1) || { echo "$said"; exit 1; }
after=$(date +%s)
told=$(printf '%s\n' "$said" | tr -d '\r' | sed -n 's/^[Dd][Aa][Tt][Ee]: *//p' | tail -n 1)
there=$(date -d "$told" +%s 2>/dev/null)
if [ -z "$told" ] || [ -z "$there" ]; then
    echo "the answer of $url has no Date header"
    exit 1
fi
off=0
[ "$there" -ge "$before" ] || off=$((before - there))
[ "$there" -le "$after" ] || off=$((there - after))
echo "the clock differs by $off s from that of $url"
[ "$off" -le "$tolerance" ]
