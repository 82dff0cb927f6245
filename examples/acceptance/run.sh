#!/usr/bin/env bash
# Shows on a real MAAS that maascert keeps its word: a rehearsal changes nothing, a renewal reaches every region with its whole chain,
# a region that is down is told and catches up, and there is a way back. It ends with a table without names and addresses, to be
# sent to those who build maascert.
#
# To be run as root on a region host, snap or deb, after `maascert init`, at an hour in which every region's web page may be gone for some
# seconds. It orders up to two certificates of the configured CA (use its staging or a CA of your own), and gives them to MAAS. It
# never enables TLS on a MAAS that does not serve it: `maascert renew --enable-tls` does, and there is no way back from that.
#
#   sudo ./run.sh [--yes] [--config FILE] [--region-down COMMAND --region-up COMMAND] [--patience SECONDS]
#
#   --yes             asks nothing. Without it, consent is asked for, and somebody to stop a region and to start it again
#   --region-down     stops what serves TLS of one other region, such as 'ssh region2 sudo systemctl stop maas-http'
#                     (the snap: 'ssh region2 sudo snap stop maas'); without it and with --yes this step is left out
#   --region-up       starts it again
#   --patience        how long it may take to come back: 600
#
# Needs: maascert, openssl, python3. Exit codes: 0 everything passed, 1 something did not, 2 it was not begun.
set -uo pipefail

yes='' config=/etc/maascert/maascert.yaml down='' up='' patience=600
while [ $# -gt 0 ]; do
	case $1 in
	--yes) yes=1 ;;
	--config) config=$2 && shift ;;
	--region-down) down=$2 && shift ;;
	--region-up) up=$2 && shift ;;
	--patience) patience=$2 && shift ;;
	*) echo "usage: run.sh [--yes] [--config FILE] [--region-down COMMAND --region-up COMMAND] [--patience SECONDS]" >&2 && exit 2 ;;
	esac
	shift
done
for needed in maascert openssl python3; do
	command -v "$needed" >/dev/null || { echo "$needed is not installed" >&2 && exit 2; }
done

work=$(mktemp -d /var/tmp/maascert-acceptance.XXXXXX) || exit 2
table=$work/table.txt
failed=0

maascert_() { maascert --config "$config" "$@"; }

# status_of prints what an expression says of the status document.
status_of() {
	maascert_ status --json 2>>"$work/log" | python3 -c '
import json, sys
s = json.load(sys.stdin)
endpoints = [e for c in s["certificates"] for t in c["targets"] for e in t["endpoints"]]
print(eval(sys.argv[1]))' "$1"
}

# served prints, for each endpoint, the fingerprint of what openssl sees there, and how many certificates come with it.
served() {
	status_of '" ".join(e["address"] for e in endpoints)' | tr ' ' '\n' | while read -r address; do
		timeout 20 openssl s_client -connect "$address" -servername "$name" -showcerts </dev/null 2>/dev/null >"$work/chain"
		fingerprint=$(openssl x509 -noout -fingerprint -sha256 <"$work/chain" 2>/dev/null)
		echo "$address ${fingerprint#*=} $(grep -c BEGIN "$work/chain")"
	done
}

# row adds one to the table: step, result, seconds, what was seen.
row() {
	[ "$2" = FAILED ] && failed=1
	printf '%-34s %-8s %5s s  %s\n' "$1" "$2" "$3" "$4" | tee -a "$table"
}

# step runs a command and tells whether it ended with the code that is expected. What it says is kept in the log.
step() {
	local title=$1 want=$2 begun=$SECONDS code
	shift 2
	printf '\n$ %s\n' "$*" >>"$work/log"
	"$@" >"$work/said" 2>&1
	code=$?
	cat "$work/said" >>"$work/log"
	seconds=$((SECONDS - begun))
	[ $code -eq "$want" ]
}

# ask waits for a person, who may say no.
ask() {
	[ -z "$yes" ] || return 0
	printf '%s [yes/no] ' "$1"
	read -r answer </dev/tty && [ "$answer" = yes ]
}

maascert_ config test >"$work/said" 2>&1 || { cat "$work/said" >&2 && exit 2; }
regions=$(status_of 'len(endpoints)')
unreachable=$(status_of 'sum(e["fingerprint"] == "" for e in endpoints)')
name=$(status_of 's["certificates"][0]["names"][0]')
if [ "$regions" = 0 ] || [ "$unreachable" != 0 ]; then
	echo "maascert status sees $regions endpoints, $unreachable of which do not serve TLS; begin when all do (maascert renew --enable-tls does it for the first time)" >&2
	exit 2
fi
cat <<END
This rehearses a renewal, renews the certificate of this MAAS, ${down:+stops a region for a while, renews again, }goes back to the version
before and forth again. Up to two certificates are ordered from $(maascert_ config show | sed -n 's/^ *directory: *//p' | head -1),
and $regions endpoints get them. What is kept of it is in $work.
END
ask "Shall it begin?" || { echo "nothing was done" && exit 2; }

{
	echo "maascert acceptance, $(date -u +%Y-%m-%d)"
	maascert --version
	echo "system: $(. /etc/os-release && echo "$PRETTY_NAME"); MAAS: $({ snap list maas 2>/dev/null | awk 'NR == 2 {print "snap", $2}'; dpkg-query -W -f 'deb ${Version}' maas-region-api 2>/dev/null; } | head -1)"
	echo "endpoints: $regions"
	echo
} | tee "$table"

if step check 0 maascert_ check; then
	row "everything is ready" passed "$seconds" "$(head -1 "$work/said")"
else
	row "everything is ready" FAILED "$seconds" "maascert check ended with another code than 0"
fi

before=$(served)
if step rehearsal 0 maascert_ renew --dry-run --wait 5m && [ "$(served)" = "$before" ]; then
	row "a rehearsal changes nothing" passed "$seconds" "the same is served everywhere"
else
	row "a rehearsal changes nothing" FAILED "$seconds" "see the log"
fi

# all_serve tells whether openssl sees one certificate, with a chain, at every endpoint, and not the one that is given.
all_serve() {
	served >"$work/served"
	[ "$(awk '{print $2}' "$work/served" | sort -u | wc -l)" = 1 ] && [ "$(awk '$3 < 2' "$work/served" | wc -l)" = 0 ] && ! grep -qF "$1" "$work/served"
}

old=$(awk 'NR == 1 {print $2}' <<<"$before")
ports=$(awk '{print $1}' <<<"$before")
if step renewal 0 maascert_ renew --force --wait 5m && all_serve "$old" && [ "$(awk '{print $1}' "$work/served")" = "$ports" ]; then
	row "a renewal reaches every region" passed "$seconds" "openssl sees the new one, with its chain, at every endpoint, at the same port"
else
	row "a renewal reaches every region" FAILED "$seconds" "see the log"
fi
new=$(awk 'NR == 1 {print $2}' "$work/served")
version=$(status_of 's["certificates"][0]["version"]')

if [ "$regions" -lt 2 ]; then
	row "a region that is down is told" "left out" 0 "there is one region"
elif [ -z "$down" ] && { [ -n "$yes" ] || ! ask "Stop what serves TLS of one OTHER region now. Is it stopped?"; }; then
	row "a region that is down is told" "left out" 0 "no region was stopped"
else
	[ -z "$down" ] || bash -c "$down" >>"$work/log" 2>&1
	if step "region down" 1 maascert_ renew --force --wait 5m && [ "$(status_of 'sum(e["state"] != "match" for e in endpoints)')" -ge 1 ]; then
		row "a region that is down is told" passed "$seconds" "renew and status end with 1, and name it"
	else
		row "a region that is down is told" FAILED "$seconds" "see the log"
	fi
	if [ -n "$down" ]; then bash -c "$up" >>"$work/log" 2>&1; else ask "Start it again now. Is it started?"; fi
	begun=$SECONDS
	until maascert_ renew --wait 5m >>"$work/log" 2>&1 && all_serve "$new" || [ $((SECONDS - begun)) -gt "$patience" ]; do sleep 5; done
	if all_serve "$new"; then
		row "it catches up when it is back" passed $((SECONDS - begun)) "every endpoint serves the newest"
	else
		row "it catches up when it is back" FAILED $((SECONDS - begun)) "see the log"
	fi
	new=$(awk 'NR == 1 {print $2}' "$work/served")
	version=$(status_of 's["certificates"][0]["version"]')
fi

if step rollback 0 maascert_ rollback --wait 5m && all_serve "$new"; then
	row "there is a way back" passed "$seconds" "every endpoint serves the version before"
else
	row "there is a way back" FAILED "$seconds" "see the log"
fi
if step forth 0 maascert_ rollback --to "$version" --hold 1s --wait 5m && all_serve nothing && grep -qF "$new" "$work/served"; then
	row "and forth again" passed "$seconds" "without another order"
else
	row "and forth again" FAILED "$seconds" "see the log"
fi
if step status 0 maascert_ status; then
	row "all is well in the end" passed "$seconds" "maascert status ends with 0"
else
	row "all is well in the end" FAILED "$seconds" "maascert status: $(head -1 "$work/said")"
fi
printf '\nThe table is in %s, without names and addresses; the log beside it has both, and no secret.\n' "$table"
exit $failed
