# Turns the `runcmd` entries of a flattened cloud-config (see yaml.awk) into a shell script: a string is a line of shell,
# a list is a command and its arguments.

function plain(text,    out, i, c) {
    for (i = 1; i <= length(text); i++) {
        c = substr(text, i, 1)
        if (c == "\\") {
            c = substr(text, ++i, 1)
            c = c == "n" ? "\n" : c == "t" ? "\t" : c
        }
        out = out c
    }
    return out
}

function quoted(word) { gsub(/'/, "'\\''", word); return "'" word "'" }

function finish() { if (words != "") print words; words = "" }

$1 ~ /^runcmd\.[0-9]+$/ { finish(); print plain($2) }

$1 ~ /^runcmd\.[0-9]+\.[0-9]+$/ {
    split($1, path, ".")
    if (path[2] != entry) finish()
    entry = path[2]
    words = words (words == "" ? "" : " ") quoted(plain($2))
}

END { finish() }
