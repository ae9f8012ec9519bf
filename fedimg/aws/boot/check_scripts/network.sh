# Run by sh, as root, on a test instance: check that it can reach URLs and resolve names.
# Standard input has "reach URL" and "resolve NAME" lines, then "end".
# Exit status 77: no URL or name is configured, or curl is not installed.
named=
while read -r what value; do
    case $what in
        end) break ;;
        resolve)
            getent ahosts "$value" >/dev/null || { echo "$value could not be resolved"; exit 1; }
            echo "$value resolves to $(getent ahosts "$value" | { read -r address _; echo "$address"; })"
            ;;
        reach)
            command -v curl >/dev/null || { echo "curl is not installed"; exit 77; }
            # An answer with any status is enough.
            curl --disable --silent --show-error --globoff --output /dev/null --max-time 30 \
                --retry 2 --proto =http,https --url "$value" 2>&1 || exit 1
            echo "$value answers"
            ;;
    esac
    named=yes
done
[ -n "$named" ] || { echo "ec2.test.reach and ec2.test.resolve are empty"; exit 77; }
