# The guardian of one private PostgreSQL cluster, run as: sh -c <this> guardian SIGNAL SCRATCH DATA LOG BIN SUPERUSER SETTING...
#
# Its stdin is a pipe whose only write end is held by the owner. While that is open, the guardian does
# what the owner asks for, one word a line, and answers with one line each. When the pipe ends, for
# whatever reason (the owner is done, was killed, has crashed), it ends the server and removes SCRATCH.
signal=$1 scratch=$2 data=$3 log=$4 bin=$5 superuser=$6
shift 6
pid=

# A signal to the guardian interrupts `read`, which leaves the loop like the end of the pipe does.
trap : HUP INT TERM

# end SIGNAL TENTHS: true as soon as the server is gone, false after TENTHS of a second.
end() {
  kill -"$1" "$pid" 2>/dev/null
  tenths=0
  while kill -0 "$pid" 2>/dev/null; do
    [ "$tenths" -ge "$2" ] && return 1
    tenths=$((tenths + 1))
    sleep 0.1
  done
}

while read -r verb port; do
  case $verb in
  init)
    "$bin/initdb" -D "$data" -U "$superuser" -k -E UTF8 --locale=C \
      --auth-local=trust --auth-host=trust >>"$log" 2>&1
    echo "$?"
    ;;
  start)
    "$bin/postgres" -D "$data" -k "$scratch" -p "$port" "$@" >>"$log" 2>&1 </dev/null &
    pid=$!
    echo "$pid"
    ;;
  reap) # the server has ended: take its status, so that its pid is free again
    wait "$pid"
    status=$?
    pid=
    echo "$status"
    ;;
  esac
done

if [ -n "$pid" ]; then
  end "$signal" 100 || end QUIT 50 || end KILL 50
fi
# A killed server leaves its little System V segment behind; data that goes away takes it along.
case $data in
"$scratch"/*)
  segment=$(sed -n '7s/.* //p' "$data/postmaster.pid" 2>/dev/null)
  [ -n "$segment" ] && ipcrm -m "$segment" 2>/dev/null
  ;;
esac
rm -rf "$scratch"
