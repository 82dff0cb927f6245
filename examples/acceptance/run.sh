#!/usr/bin/env bash
# Shows on a real MAAS that maascert keeps its word: a rehearsal changes nothing, a renewal reaches every endpoint with its whole chain,
# a region that is down is told and catches up, and there is a way back. It ends with a table without names and addresses, to be
# sent to those who build maascert.
#
# To be run as root on a region host, snap or deb, when `maascert status` ends with 0. It orders one certificate of the configured CA, or
# two where a region is stopped (a CA's staging or one of your own is best), and gives them to MAAS and the proxies, which reload. A region
# that is stopped serves nothing until it is started again, for as long as a renewal and its verification take: some minutes. It never
# enables TLS on a MAAS that does not serve it: `maascert renew --enable-tls` does, and there is no way back from that.
#
#   sudo ./run.sh [--yes] [--config FILE] [--cert NAME] [--region-down COMMAND --region-up COMMAND] [--patience SECONDS]
#
#   --yes             asks nothing
#   --cert            which certificate, where there are several
#   --region-down     stops one other region, regiond included, which would start its proxy again:
#                     'ssh region2 sudo systemctl stop maas-regiond maas-http'; of the snap this stops all of MAAS on that host:
#                     'ssh region2 sudo snap stop maas'. Without it that step is left out
#   --region-up       starts it again, also when this is interrupted
#   --patience        how many seconds a region may take to come back: 600
#
# Needs: maascert, openssl, python3. Exit codes: 0 everything passed, 1 something did not, 2 it was not begun.
set -uo pipefail

usage() {
	echo "usage: run.sh [--yes] [--config FILE] [--cert NAME] [--region-down COMMAND --region-up COMMAND] [--patience SECONDS]" >&2
	exit 2
}

yes='' config=/etc/maascert/maascert.yaml cert='' down='' up='' patience=600
while [ $# -gt 0 ]; do
	option=$1
	shift
	case $option in
	--yes) yes=1 && continue ;;
	--config | --cert | --region-down | --region-up | --patience) [ $# -gt 0 ] || usage ;;
	*) usage ;;
	esac
	case $option in
	--config) config=$1 ;;
	--cert) cert=$1 ;;
	--region-down) down=$1 ;;
	--region-up) up=$1 ;;
	--patience) patience=$1 ;;
	esac
	shift
done
[[ $patience =~ ^[0-9]+$ ]] || usage
[ "${down:+set}" = "${up:+set}" ] || usage
for needed in maascert openssl python3; do
	command -v "$needed" >/dev/null || { echo "$needed is not installed" >&2 && exit 2; }
done
work=$(mktemp -d /var/tmp/maascert-acceptance.XXXXXX) || exit 2
table=$work/table.txt
failed=0

program() { maascert --config "$config" "$@"; }

# status_of prints what an expression says of the status of the certificate; nothing where there is none.
status_of() {
	program status --json 2>>"$work/log" | python3 -c '
import ipaddress, json, sys
def is_address(name):
    try:
        return bool(ipaddress.ip_address(name))
    except ValueError:
        return False
certificates = [c for c in json.load(sys.stdin)["certificates"] if c["name"] == sys.argv[2] or not sys.argv[2]]
cert = certificates[0]
endpoints = [e for t in cert["targets"] for e in t["endpoints"]]
print(eval(sys.argv[1]))' "$1" "$cert" 2>>"$work/log"
}

# look writes down, for each endpoint, its address and the fingerprint of what openssl sees there, or "nothing".
look() {
	local address fingerprint
	while read -r address; do
		fingerprint=$(timeout 20 openssl s_client -connect "$address" ${name:+-servername "$name"} </dev/null 2>/dev/null | openssl x509 -noout -fingerprint -sha256 2>/dev/null)
		echo "$address ${fingerprint#*=}"
	done <"$work/endpoints" | awk '{print $1, ($2 == "" ? "nothing" : $2)}' >"$1"
}

# all_serve tells whether openssl sees a certificate at every endpoint, and which one; maascert has to say that its chain is complete.
all_serve() {
	look "$work/now"
	[ "$(cut -d' ' -f2 "$work/now" | sort -u)" = "$1" ] && [ "$(status_of 'all(e["chain"] == "complete" and e["state"] == "match" for e in endpoints)')" = True ]
}

# row adds one to the table: step, result, seconds, what was seen.
row() {
	[ "$2" != FAILED ] || failed=1
	printf '%-34s %-8s %5s s  %s\n' "$1" "$2" "$3" "$4" | tee -a "$table"
}

# ends runs maascert and tells whether it ended with the code that is expected. What it says is kept.
ends() {
	local want=$1 begun=$SECONDS code
	shift
	printf '\n$ maascert %s\n' "$*" >>"$work/log"
	program "$@" >"$work/said" 2>&1
	code=$?
	cat "$work/said" >>"$work/log"
	seconds=$((SECONDS - begun))
	[ $code -eq "$want" ]
}

# is_named tells whether what was said last names every endpoint that is down.
is_named() {
	local address
	while read -r address; do
		grep -qF "$address" "$work/said" || return 1
	done <"$work/down"
}

# finish ends with what was found so far.
finish() {
	printf '\nThe table is in %s, without names and addresses; the log beside it has both, and no secret.\n' "$table"
	exit $failed
}

is_down=''
restore() {
	[ -z "$is_down" ] || { is_down='' && timeout 120 bash -c "$up" >>"$work/log" 2>&1; }
}
trap restore EXIT
trap 'exit 130' INT TERM HUP

program config test >"$work/said" 2>&1 || { cat "$work/said" >&2 && exit 2; }
if [ -z "$cert" ] && [ "$(status_of 'len(certificates)')" != 1 ]; then
	echo "there are several certificates: name one with --cert" >&2
	exit 2
fi
cert=${cert:-$(status_of 'cert["name"]')}
if ! ends 0 status --cert "$cert" || [ "$(status_of 'all(e["state"] == "match" for e in endpoints) and len(endpoints) > 0')" != True ]; then
	cat "$work/said" >&2
	echo "maascert status does not end with 0, or not every endpoint serves a version of maascert: begin after maascert renew" >&2
	exit 2
fi
status_of '"\n".join(e["address"] for e in endpoints)' >"$work/endpoints"
count=$(wc -l <"$work/endpoints")
name=$(status_of 'next((n for n in cert["names"] if "*" not in n and not is_address(n)), "")')
cat <<END
This rehearses a renewal of the certificate "$cert", renews it, ${down:+stops a region for some minutes, renews again, }and goes back to the
version before and forth again. $([ -z "$down" ] && echo "One certificate is" || echo "Two certificates are") ordered of the CA of the configuration, and $count endpoints get what is ordered. What is kept of this is in
$work.
END
if [ -z "$yes" ]; then
	printf 'Shall it begin? [yes/no] '
	{ read -r answer </dev/tty && [ "$answer" = yes ]; } || { echo "nothing was done" && exit 2; }
fi

{
	echo "maascert acceptance, $(date -u +%Y-%m-%d)"
	program --version
	echo "system: $(. /etc/os-release && echo "$PRETTY_NAME"); MAAS: $({ snap list maas 2>/dev/null | awk 'NR == 2 {print "snap", $2}'; dpkg-query -W -f 'deb ${Version}' maas-region-api 2>/dev/null; } | head -1)"
	echo "endpoints: $count"
	echo
} | tee "$table"

if ! ends 0 check; then
	row "everything is ready" FAILED "$seconds" "maascert check does not end with 0; nothing else was tried"
	finish
fi
row "everything is ready" passed "$seconds" "maascert check ends with 0"

look "$work/before"
if grep -q nothing "$work/before" || ! ends 0 renew --cert "$cert" --dry-run --wait 5m || ! look "$work/now" || ! cmp -s "$work/before" "$work/now"; then
	row "a rehearsal changes nothing" FAILED "${seconds:-0}" "see the log; nothing else was tried"
	finish
fi
row "a rehearsal changes nothing" passed "$seconds" "it ends with 0, and openssl sees the same at every endpoint"

# renewed tells whether there is a version that there was not, and remembers it and the one before.
renewed() {
	local now number
	number=$(status_of 'cert["version"]')
	now=$(status_of 'cert["fingerprint"].removeprefix("sha256:").upper()' | sed 's/../&:/g; s/:$//')
	[[ $number =~ ^[0-9]+$ ]] && [ -n "$now" ] && [ "$now" != "$newest" ] && previous=$newest newest=$now version=$number
}

newest=none
renewed
if ! ends 0 renew --cert "$cert" --force --wait 5m || ! renewed || ! all_serve "$newest"; then
	row "a renewal reaches every endpoint" FAILED "$seconds" "see the log; nothing else was tried"
	finish
fi
row "a renewal reaches every endpoint" passed "$seconds" "openssl sees the new one at every endpoint, at the same port; the chain is complete"

title="a region that is down is told"
if [ -z "$down" ]; then
	row "$title" "left out" 0 "no command to stop a region"
else
	is_down=1
	begun=$SECONDS
	timeout 120 bash -c "$down" >>"$work/log" 2>&1
	while look "$work/now" && ! grep -q nothing "$work/now" && [ $((SECONDS - begun)) -lt 30 ]; do sleep 1; done
	grep nothing "$work/now" | cut -d' ' -f1 >"$work/down"
	if [ ! -s "$work/down" ] || [ "$(wc -l <"$work/down")" = "$count" ]; then
		restore
		row "$title" "left out" $((SECONDS - begun)) "not one of several endpoints stopped serving"
	else
		if ends 1 renew --cert "$cert" --force --wait 5m && renewed && look "$work/now" &&
			[ "$(grep -vFf "$work/down" "$work/now" | cut -d' ' -f2 | sort -u)" = "$newest" ] && ends 1 status --cert "$cert" && is_named; then
			row "$title" passed "$seconds" "renew and status end with 1, status names it, all others serve the newest"
		else
			row "$title" FAILED "$seconds" "see the log"
		fi
		restore
		begun=$SECONDS
		until all_serve "$newest" || [ $((SECONDS - begun)) -gt "$patience" ]; do
			program renew --cert "$cert" --wait 5m >>"$work/log" 2>&1
			sleep 10
		done
		if ! all_serve "$newest"; then
			row "it catches up when it is back" FAILED $((SECONDS - begun)) "see the log; nothing else was tried"
			finish
		fi
		row "it catches up when it is back" passed $((SECONDS - begun)) "every endpoint serves the newest"
	fi
fi

if ends 0 rollback --cert "$cert" --hold 1h --wait 5m && all_serve "$previous"; then
	row "there is a way back" passed "$seconds" "every endpoint serves the version before"
else
	row "there is a way back" FAILED "$seconds" "see the log"
fi
if ends 0 rollback --cert "$cert" --to "$version" --hold 1s --wait 5m && all_serve "$newest"; then
	row "and forth again" passed "$seconds" "every endpoint serves the newest, without another order"
else
	row "and forth again" FAILED "$seconds" "see the log"
	echo "To go on with the newest: maascert rollback --cert '$cert' --to $version --hold 1s"
fi
if ends 0 status --cert "$cert"; then
	row "all is well in the end" passed "$seconds" "maascert status ends with 0"
else
	row "all is well in the end" FAILED "$seconds" "maascert status does not end with 0"
fi
finish
