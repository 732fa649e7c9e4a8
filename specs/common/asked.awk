# Compares a finished kernel configuration, the first file, with the symbols asked for, the second:
# kconfig drops in silence what lacks a dependency. pipeline/formats/kconfig.py reads these lines.
{ name = "" }
/^CONFIG_/ { name = substr($0, 1, index($0, "=") - 1); value = substr($0, index($0, "=") + 1) }
/^# CONFIG_.* is not set$/ { name = $2; value = "n" }
name == "" { next }
# Not NR == FNR, which an empty first file would make true of the second.
FILENAME == ARGV[1] { got[name] = value; next }
{
    has = (name in got) ? got[name] : "n"
    if (has != value) {
        print "error: kconfig: " name ": asked for " value ", has " has
        wrong = 1
    }
}
END { exit wrong }
