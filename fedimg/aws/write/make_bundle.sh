# Functions of write_image.sh, run by the same bash: make a bundle of the image that is written.
#
# Its archive is compressed, encrypted, and cut into parts, which are stored in S3 by URLs that the
# worker signs for each. That is done beside the write, which never waits for a bundle that failed.
# These URLs and the passphrase are on no command line and in no file, environment or output.

# Asks the worker about a part: sets $order, $checksum64 and $target, the URL.
ask() { # INDEX REASON
    local index
    echo "part $1 ${sizes[$1]} ${digests1[$1]} $2"
    read -r -t 600 order index checksum64 target <&5 || order=stop
    [[ $order == stop || $index == "$1" ]] || order=stop
}

# Stores a part; prints HTTP's status and S3's code if that fails. curl reads the URL from a pipe,
# and nothing of what it prints itself is passed on.
put() { # INDEX
    local said code=-
    said=$(printf 'url = "%s"\n' "$target" |
        curl --disable --config - --silent --globoff --proto =http,https --max-redirs 0 \
            --connect-timeout 30 --max-time "$patience" --speed-limit 1 --speed-time "$idle" \
            --header 'Expect:' --header 'Content-Type:' --header 'x-amz-acl: aws-exec-read' \
            --header "x-amz-checksum-sha1: $checksum64" --upload-file "$work/part.$1" \
            --write-out '\n%{http_code}' 2>/dev/null | head -c 100000)
    [[ ${said##*$'\n'} != 200 ]] || return 0
    [[ ! $said =~ \<Code\>([A-Za-z]{1,60})\</Code\> ]] || code=${BASH_REMATCH[1]}
    said=${said##*$'\n'}
    [[ $said =~ ^[0-9]{3}$ ]] || said=000
    echo "$said/$code" >"$work/failed.$1"
    return 1
}

# Waits until the part that was begun first is stored; $held has the seconds of all such waits. The
# status is 1 if that is not to be had.
settle() {
    local index=${sending[0]} began=$SECONDS pause=1 reason
    if ((held >= patience)); then
        echo "unbundled S3 took the parts so slowly that the write waited for $held s"
        return 1
    fi
    until wait "${senders[$index]}"; do
        reason=000/-
        read -r reason <"$work/failed.$index"
        if ((held + SECONDS - began >= patience)); then
            echo "unbundled part $index was not stored: $reason"
            return 1
        fi
        sleep "$pause"
        ((pause >= 16)) || ((pause *= 2))
        send "$index" "$reason" || return
    done
    ((held += SECONDS - began))
    rm -f "$work/part.$index" "$work/failed.$index"
    sending=("${sending[@]:1}")
}

# Begins to store a part. The status is 1 if no bundle is wanted.
send() { # INDEX REASON
    local order checksum64 target
    ask "$1" "$2"
    case $order in
        put) put "$1" & ;;
        have) true & ;;
        *)
            echo "unbundled no answer about part $1"
            return 1
            ;;
    esac
    senders[$1]=$!
}

# Cuts standard input into parts, and stores them, three at a time.
parts() {
    local sizes=() digests1=() senders=() sending=() index=0 held=0 digits
    while :; do
        if ! dd bs=64K iflag=fullblock,count_bytes count="$part_size" of="$work/part.$index" \
            2>"$work/part.errors"; then
            echo "unbundled $(head -n 1 "$work/part.errors")"
            return 1
        fi
        sizes[index]=$(stat -c %s "$work/part.$index")
        ((sizes[index] > 0)) || break
        read -r digits _ < <(sha1sum "$work/part.$index")
        digests1[index]=$digits
        ((${#sending[@]} < 3)) || settle || return
        send "$index" - || return
        sending+=("$index")
        ((sizes[index] == part_size)) || break
        ((++index))
    done
    while ((${#sending[@]})); do
        settle || return
    done
    echo "${#digests1[@]}" >"$work/parts"
}

make_bundle() {
    local status digits count archiver
    sha1sum <"$work/archive.pipe" >"$work/archive" &
    archiver=$!
    {
        printf %s "$header" | base64 --decode && cat && head -c "$tail" /dev/zero
    } | tee "$work/archive.pipe" |
        gzip -n -3 |
        openssl enc -aes-128-cbc -nosalt -md sha256 -pass fd:3 3< <(printf '%s\n' "$secret") |
        parts
    status=("${PIPESTATUS[@]}")
    # The volume does not wait for a bundle that has failed.
    cat >/dev/null
    case "${status[*]} $([[ ! -e $work/parts ]] || echo whole)" in
        "0 0 0 0 0 whole")
            wait "$archiver"
            read -r digits _ <"$work/archive"
            read -r count <"$work/parts"
            echo "bundled $digits $count"
            ;;
        *whole) echo "unbundled a program failed: ${status[*]}" ;;
    esac
} 2>/dev/null

