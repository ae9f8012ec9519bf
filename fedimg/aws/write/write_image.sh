# Run by bash, as root, on a utility instance: streams a compressed image onto a volume.
#
# Standard input has a line "NAME VALUE" for each value, then "end": no text of a message is ever
# part of a command line. Each line of standard output is one of:
#     progress BYTES               written so far, at least every two seconds
#     checksum ALGORITHM:HEX       of the compressed file
#     disk sha256:HEX              of the decompressed image
#     part INDEX SIZE SHA1 REASON  a part of the bundle that is to be stored, and why the last try
#                                  to store it failed, or "-"
#     bundled SHA1 PARTS           of the bundle's archive; all parts are stored
#     unbundled REASON             there will be no bundle; the image is written nevertheless
#     wrote BYTES                  the last line, only on success
#     failed PART: REASON          PART is input, tools, device, download, checksum,
#                                  decompression or volume; the exit status is 1
# To each line about a part comes an answer on standard input, behind "end":
#     put INDEX SHA1_BASE64 URL    store it there; the URL is a secret, and on no command line and
#                                  in no file, environment or output
#     have INDEX                   it is stored already
#     stop                         no bundle is wanted any more
set -u
export LC_ALL=C
unset XZ_OPT XZ_DEFAULTS GZIP ZSTD_CLEVEL ZSTD_NBTHREADS

fail() {
    printf 'failed %s: %s\n' "$1" "$2"
    exit 1
}

declare -A given=()
ended=
while read -r name value; do
    case $name in
        url | hosts | plain | alone | volume | checksum | format | compressed | uncompressed | \
            idle | appear | bundle | header | tail | part | secret | patience) given[$name]=$value ;;
        end) ended=yes; break ;;
        *) fail input "unknown value name" ;;
    esac
done
[[ $ended ]] || fail input "the list of values is incomplete"

value_of() { # NAME PATTERN VARIABLE
    [[ ${given[$1]-} =~ ^$2$ ]] || fail input "the value of $1 is missing or malformed"
    printf -v "$3" %s "${given[$1]-}"
}
value_of url 'https?://[!-~]+' url
value_of hosts '[a-z0-9._: -]+' hosts
value_of plain '[a-z0-9._: -]+' plain
value_of alone '(yes|no)' alone
value_of volume 'vol-[0-9a-f]{8,17}' volume
value_of checksum '(none|md5:[0-9a-f]{32}|sha1:[0-9a-f]{40}|sha256:[0-9a-f]{64})' checksum
value_of format 'raw(\.(xz|zst|gz))?' format
value_of compressed '[1-9][0-9]{0,14}' compressed
value_of uncompressed '[1-9][0-9]{0,14}' uncompressed
value_of idle '[1-9][0-9]{0,5}' idle
value_of appear '[1-9][0-9]{0,5}' appear
value_of bundle '(yes|no)' bundle
if [[ $bundle == yes ]]; then
    value_of header '[A-Za-z0-9+/=]{684}' header # of the tar archive: a block of 512 bytes
    value_of tail '[1-9][0-9]{0,5}' tail         # zeros behind the image
    value_of part '[1-9][0-9]{0,8}' part_size
    value_of secret '[0-9a-f]{64}' secret
    value_of patience '[1-9][0-9]{0,5}' patience
    # The answers come on descriptor 5, since the parts come on standard input.
    exec 5<&0
fi
unset given

digests=(sha256)
algorithm=${checksum%%:*}
case $algorithm in none | sha256) ;; *) digests+=("$algorithm") ;; esac

# What is no .xz file is decompressed as a whole, with the same limits as in the worker: zstd accepts
# windows of 128 MiB.
case $format in
    raw.xz) unpack=(xz --decompress --stdout --threads=0) ;;
    raw.zst) unpack=(zstd --decompress --stdout --quiet) ;;
    raw.gz) unpack=(gzip --decompress --stdout) ;;
    raw) unpack=(cat) ;;
esac

bundlers=()
[[ $bundle == no ]] || bundlers=(openssl gzip sha1sum base64 stat rm)
for tool in "${unpack[0]}" curl dd tee wc mkfifo mktemp head tail tr sleep "${digests[@]/%/sum}" \
    ${bundlers[@]+"${bundlers[@]}"}; do
    command -v "$tool" >/dev/null ||
        fail tools "the utility AMI has no $tool; install it there, or choose another AMI"
done

# --- Find the device: its NVMe or virtio serial number is the volume's id without the dash.

find_device() {
    local entry file serial
    device=
    for entry in /sys/block/*; do
        for file in "$entry/device/serial" "$entry/serial"; do
            serial=
            [[ -r $file ]] && read -r serial <"$file"
            [[ ${serial/-/} == "${volume/-/}" && -e /dev/${entry##*/} ]] || continue
            [[ -z $device || $device == "${entry##*/}" ]] ||
                fail device "both $device and ${entry##*/} have the serial number of $volume"
            device=${entry##*/}
        done
    done
    [[ $device ]]
}

deadline=$((SECONDS + appear))
until find_device; do
    ((SECONDS < deadline)) || fail device "timed out after $appear s waiting for a disk with \
the serial number of $volume; the disks are: $(cd /sys/block && echo *)"
    echo "progress 0"
    sleep 1
done

# The volume was created blank for this write, so a device in use is another one.
for used in "/sys/block/$device/$device"*/partition "/sys/block/$device/holders/"*; do
    [[ ! -e $used ]] || fail device "/dev/$device, which should be blank, is in use: $used"
done
while read -r source _; do
    [[ $source != "/dev/$device" ]] || fail device "/dev/$device is mounted"
done </proc/self/mounts

read -r sectors <"/sys/block/$device/size" || fail device "cannot read the size of /dev/$device"
capacity=$((sectors * 512)) # Linux counts 512-byte sectors here, whatever the disk's own.
((uncompressed <= capacity)) ||
    fail volume "the image needs $uncompressed bytes and /dev/$device has $capacity"

work=$(mktemp -d) || fail tools "cannot create a temporary directory: is the root disk full?"
reporter='' bundler=''
trap 'kill $reporter $(jobs -p) ${bundler:+-- "-$bundler"} 2>/dev/null; rm -rf "$work"' EXIT

# --- Download: one stream, over as many connections as needed.

# A URL in a form that all programs parse the same way.
address_form='^(https?)://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]+)?([/?#][!-~]*)?$'

broken() { # REASON
    echo "$1" >"$work/download.errors"
    return 1
}

may_lead_to() { # ADDRESS REFERRER: check a redirect against the worker's lists of hosts.
    local host
    [[ $1 =~ $address_form && ${#1} -le 8000 ]] ||
        broken "the server redirects to a URL that is malformed or too long" || return
    host=${BASH_REMATCH[2]//[][]/}
    host=${host,,}
    [[ " $hosts " == *" $host "* ]] || broken "the server redirects to $host, which is neither its \
own host nor one of ec2.redirect_hosts in the configuration" || return
    [[ $1 == https:* || " $plain " == *" $host "* || ($alone == no && $2 == http:*) ]] ||
        broken "the server redirects from https to $host over http, which is not in \
ec2.plain_http_hosts in the configuration"
}

header() { # NAME, in lower case: print its value in the last response
    local line value=
    while IFS= read -r line; do
        line=${line%$'\r'}
        case ${line,,} in
            http/*) value= ;;
            "$1: "*) value=${line#*: } ;;
        esac
    done <"$work/head"
    echo "$value"
}

# ADDRESS: print the body of one response, and add its size to $received. $answered is set to curl's
# exit status.
request() { # ADDRESS
    local from=(--continue-at "$received") skip=0 count unit parts
    ((received > 0)) || from=()
    ! [[ $whole ]] || from=() skip=$received
    : >"$work/head"
    # The download is limited to the measured size. The body goes to descriptor 4, since curl's
    # standard output has the status code.
    curl --disable --silent --show-error --fail --globoff --location --max-redirs 0 \
        --proto =http,https --connect-timeout 30 --speed-limit 1 --speed-time "$idle" \
        --header 'Accept-Encoding: identity' \
        ${past_caches[@]+"${past_caches[@]}"} ${from[@]+"${from[@]}"} \
        --dump-header "$work/head" --output /proc/self/fd/4 \
        --write-out '%{http_code} %{redirect_url}' --url "$1" \
        4>&1 >"$work/answer" 2>"$work/download.errors" |
        dd bs=64K iflag=fullblock,skip_bytes,count_bytes skip="$skip" \
            count=$((compressed + 1 - received)) 4>&- 2>"$work/part"
    parts=("${PIPESTATUS[@]}")
    answered=${parts[0]}
    while read -r count unit _; do
        [[ $unit != byte && $unit != bytes ]] || ((received += count))
    done <"$work/part"
    code=000 redirect=
    read -r code redirect <"$work/answer"
    ((parts[1] == 0))
}

# Print the file. The status is 0 also when the number of bytes differs, which is checked below.
fetch() {
    local received=0 fruitless=0 before address hop code redirect answered version= current length
    local whole= past_caches=()
    while ((received < compressed)); do
        before=$received
        address=$url
        # Each connection begins at the first URL, since the target of a redirect may expire.
        for ((hop = 0; ; hop++)); do
            # The reader of the download has failed.
            request "$address" || return 23
            [[ $code == 3?? && $redirect ]] || break
            ((hop < 5)) || broken "the server redirects more than 5 times in a row" || return
            may_lead_to "$redirect" "$address" || return
            address=$redirect
        done
        case $answered:$code in
            0:200 | 0:206 | 23:*)
                length=$(header content-range)
                length=${length##*/}
                [[ $code == 206 ]] || length=$(header content-length)
                # Another size than measured: a further connection is of no use.
                [[ -z $length || $length == "$compressed" ]] && ((received <= compressed)) || return 0
                ;;
            22:408 | 22:429 | 22:5??) ;;
            # The target of a redirect may have expired.
            22:*) ((hop > 0)) || return 22 ;;
            # The whole file came instead of its rest, from a cache, which is bypassed next, or from a
            # server without ranges.
            33:*) if [[ ${past_caches[*]-} ]]; then whole=yes; fi
                past_caches=(--header 'Cache-Control: no-cache') ;;
            0:*) broken "the server answers with status $code" || return ;;
        esac
        if ((received > before)); then
            current=$(header etag)
            [[ $current ]] || current=$(header last-modified)
            [[ -z $version || -z $current || $version == "$current" ]] ||
                broken "the file was changed while it was read; retry when its upload is \
complete" || return
            version=$current
        fi
        if ((received - before >= 65536)); then fruitless=0; else ((++fruitless)); fi
        # The first retry is immediate, since servers close long connections.
        ((received == compressed)) || ((fruitless < 3)) || return "$((answered ? answered : 18))"
        ((received == compressed || fruitless < 2)) || sleep 1
    done
}

# --- download → checksums → decompression → checksum of the image → volume

readers=()
pipes=()
for sink in "${digests[@]/%/sum}" wc; do
    mkfifo "$work/$sink.pipe" || fail tools "cannot create a named pipe in $work"
    pipes+=("$work/$sink.pipe")
    case $sink in wc) command=(wc -c) ;; *) command=("$sink") ;; esac
    "${command[@]}" <"$work/$sink.pipe" >"$work/$sink" 2>"$work/$sink.errors" &
    readers+=($!)
done

mkfifo "$work/disk.pipe" || fail tools "cannot create a named pipe in $work"
sha256sum <"$work/disk.pipe" >"$work/disk" 2>"$work/disk.errors" &
readers+=($!)
disks=("$work/disk.pipe")
if [[ $bundle == yes ]]; then
    mkfifo "$work/bundle.pipe" "$work/archive.pipe" ||
        fail tools "cannot create a named pipe in $work"
    # In a process group of its own, which ends as one.
    set -m
    make_bundle <"$work/bundle.pipe" &
    bundler=$!
    set +m
    disks+=("$work/bundle.pipe")
fi

report() {
    local field value written=0
    # sleep is redirected, so that it does not keep the session's output open after a kill.
    while sleep 2 >/dev/null 2>&1; do
        while read -r field value; do
            [[ $field != pos: ]] || written=$value
        done 2>/dev/null <"/proc/$(<"$work/writer")/fdinfo/1"
        echo "progress $written" || exit
    done 2>/dev/null
}
echo "progress 0"
report &
reporter=$!
disown "$reporter"

# dd: nocache has the kernel write data out at once, so that the last fsync does not find gigabytes
# of dirty pages. With oflag=direct dd would wait for each write, and xz for dd; blocks of 1 MiB
# instead of 4 take two to three times as long. The count stops an image that is longer than was
# measured.
fetch |
    tee "${pipes[@]}" 2>"$work/tee.errors" |
    "${unpack[@]}" 2>"$work/decompression.errors" |
    tee "${disks[@]}" 2>"$work/disk-tee.errors" |
    {
        echo "$BASHPID" >"$work/writer"
        exec dd of="/dev/$device" bs=4M count=$((uncompressed + 1)) iflag=fullblock,count_bytes \
            oflag=nocache conv=nocreat,notrunc,fsync 2>"$work/volume.errors"
    }
status=("${PIPESTATUS[@]}")

# --- Report the part that failed first, not those that failed because of it.

last_errors() { # PART
    tail -c 500 "$work/$1.errors" | tr -s '\n' ' '
}

((status[4] == 0)) || fail volume "$(head -n 1 "$work/volume.errors")"
written=0
while read -r count unit _; do
    [[ $unit != bytes ]] || written=$count
done <"$work/volume.errors"
((written <= uncompressed)) ||
    fail decompression "the image has more than the $uncompressed bytes that were measured"
# 23: curl could not write, because its reader failed.
((status[0] == 0 || status[0] == 23)) || fail download "$(last_errors download)"
for reader in "${readers[@]}"; do
    wait "$reader" || fail checksum "a program that computes a checksum or size died"
done
((status[2] == 0)) || fail decompression "$(last_errors decompression)"
((status[3] == 0)) || fail decompression "$(last_errors disk-tee)"
((status[0] == 0 && status[1] == 0)) || fail download "$(last_errors download)$(last_errors tee)"

read -r received <"$work/wc"
((received <= compressed)) || fail download "received more than the expected $compressed bytes"
((received == compressed)) || fail download "received $received bytes, expected $compressed"
found=()
for digest in "${digests[@]}"; do
    read -r digits _ <"$work/${digest}sum"
    found+=("$digest:$digits")
done
[[ $checksum == none || $checksum == "${found[-1]}" ]] ||
    fail checksum "the file has ${found[-1]}, expected $checksum"
((written == uncompressed)) ||
    fail decompression "the image has $written bytes, expected $uncompressed"

[[ -z $bundler ]] || wait "$bundler"
read -r digits _ <"$work/disk"
kill "$reporter" 2>/dev/null
reporter=''
printf 'checksum %s\n' "${found[@]}"
echo "disk sha256:$digits"
echo "wrote $written"
