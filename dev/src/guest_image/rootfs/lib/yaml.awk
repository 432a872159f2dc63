# Flattens the YAML that cloud-init seeds are made of into lines `path<TAB>value`, so that a shell script can read it:
# `runcmd: [[sh, -c, "echo hi"]]` gives `runcmd.0.0<TAB>sh`, `runcmd.0.1<TAB>-c`, `runcmd.0.2<TAB>echo hi`.
# Backslash, newline and tab in a value are written as \\, \n and \t. Understood: block and flow collections (so also
# JSON), plain, single- and double-quoted scalars, folded over lines or not, and block scalars. Not understood:
# anchors, aliases, complex keys, several documents.

{ sub(/\r$/, ""); line[++lines] = $0 }

END { at = 1; block("", 0) }

function indent_of(text) { match(text, /^ */); return RLENGTH }

function is_blank(text) { return text ~ /^[ \t]*(#.*)?$/ || text ~ /^(---|\.\.\.)[ \t]*$/ }

function trimmed(text) { sub(/^[ \t]+/, "", text); sub(/[ \t]+$/, "", text); return text }

function join(path, key) { return path == "" ? key : path "." key }

function emit(path, value) {
    gsub(/\\/, "\\\\", value); gsub(/\n/, "\\n", value); gsub(/\t/, "\\t", value)
    printf "%s\t%s\n", path, value
}

function skip_blank() { while (at <= lines && is_blank(line[at])) at++ }

# The length of the mapping key with its colon at the start of `text`, or 0.
function key_length(text) {
    if (match(text, /^("[^"]*"|'[^']*'|[^][ {}"'#&*!|>%@`,-][^:#]*|-[^ :#][^:#]*)[ ]*:([ \t]|$)/)) {
        match(text, /^("[^"]*"|'[^']*'|[^:]*)[ ]*:/)
        return RLENGTH
    }
    return 0
}

function unquoted(key) {
    key = trimmed(key)
    if (key ~ /^".*"$/ || key ~ /^'.*'$/) key = substr(key, 2, length(key) - 2)
    return key
}

# Reads the value whose lines are indented by at least `least`.
function block(path, least,    indent, text, count, length_, rest, key) {
    skip_blank()
    if (at > lines) return
    indent = indent_of(line[at])
    if (indent < least) return
    text = substr(line[at], indent + 1)
    if (text ~ /^-([ \t]|$)/) {
        for (count = 0; at <= lines && indent_of(line[at]) == indent; count++) {
            text = substr(line[at], indent + 1)
            if (text !~ /^-([ \t]|$)/) return
            # An entry is whatever stands after its dash, as if the dash were a space.
            line[at] = substr(line[at], 1, indent) " " substr(text, 2)
            if (is_blank(line[at])) at++
            block(join(path, count), indent + 1)
            skip_blank()
        }
    } else if (key_length(text)) {
        while (at <= lines && indent_of(line[at]) == indent) {
            text = substr(line[at], indent + 1)
            length_ = key_length(text)
            if (!length_) return
            key = unquoted(substr(text, 1, length_ - 1))
            rest = trimmed(substr(text, length_ + 1))
            if (rest == "" || rest ~ /^#/) {
                at++
                skip_blank()
                # A sequence may stand at the indentation of its key.
                if (at <= lines && substr(line[at], indent + 1) ~ /^-([ \t]|$)/ && indent_of(line[at]) == indent)
                    block(join(path, key), indent)
                else
                    block(join(path, key), indent + 1)
            } else {
                scalar(join(path, key), rest, indent)
            }
            skip_blank()
        }
    } else {
        scalar(path, trimmed(text), least - 1)
    }
}

# Reads the value that starts with `text` on the current line, in a collection indented by `parent`.
function scalar(path, text, parent,    first) {
    sub(/^!+[^ ]* +/, "", text)
    first = substr(text, 1, 1)
    if (first == "|" || first == ">") {
        block_scalar(path, text, parent)
    } else if (first == "[" || first == "{" || first == "\"" || first == "'") {
        flow_text = text; flow_at = 1
        at++
        flow(path)
    } else {
        sub(/[ \t]+#.*$/, "", text)
        for (at++; at <= lines && !is_blank(line[at]) && indent_of(line[at]) > parent; at++)
            text = text " " trimmed(line[at])
        emit(path, text)
    }
}

function block_scalar(path, header, parent,    value, base, indent, text, folded) {
    folded = header ~ /^>/
    base = -1
    for (at++; at <= lines; at++) {
        text = line[at]
        if (text ~ /^[ ]*$/) { value = value "\n"; continue }
        indent = indent_of(text)
        if (indent <= parent) break
        if (base < 0) base = indent
        value = value substr(text, base + 1) "\n"
    }
    if (header !~ /\+/) sub(/\n+$/, "", value)
    if (folded) value = folded_lines(value)
    if (header !~ /[-+]/ && value != "") value = value "\n"
    emit(path, value)
}

# One line break becomes a space, n + 1 become n.
function folded_lines(value,    out, breaks) {
    while (match(value, /\n+/)) {
        breaks = RLENGTH
        out = out substr(value, 1, RSTART - 1) (breaks == 1 ? " " : "")
        value = substr(value, RSTART + RLENGTH)
        while (--breaks > 0) out = out "\n"
    }
    return out value
}

# The current character of the flow value; takes in following lines as needed, and is "" at the end of the file.
function peek(    blanks) {
    if (flow_at > length(flow_text)) {
        blanks = 0
        while (at <= lines && line[at] ~ /^[ \t]*$/) { at++; blanks++ }
        if (at > lines) return ""
        # In a double-quoted scalar a backslash at the end of a line swallows the break.
        flow_text = (blanks ? substr("\n\n\n\n\n\n\n\n", 1, blanks) : " ") trimmed(line[at++])
        flow_at = 1
    }
    return substr(flow_text, flow_at, 1)
}

function flow_space(    c) {
    for (c = peek(); c == " " || c == "\t" || c == "\n"; c = peek()) flow_at++
    return c
}

function flow(path,    c, count, key) {
    c = flow_space()
    if (c == "[") {
        flow_at++
        for (count = 0; (c = flow_space()) != "]" && c != ""; count++) {
            flow(join(path, count))
            if (flow_space() == ",") flow_at++
        }
        flow_at++
    } else if (c == "{") {
        flow_at++
        while ((c = flow_space()) != "}" && c != "") {
            key = flow_scalar(1)
            if (flow_space() == ":") flow_at++
            if ((c = flow_space()) != "," && c != "}") flow(join(path, key))
            if (flow_space() == ",") flow_at++
        }
        flow_at++
    } else {
        emit(path, flow_scalar(0))
    }
}

function flow_scalar(is_key,    c, value, next_) {
    c = flow_space()
    if (c == "'") {
        for (flow_at++; (c = peek()) != ""; flow_at++) {
            if (c == "'") {
                if (substr(flow_text, flow_at + 1, 1) != "'") break
                flow_at++
            }
            value = value c
        }
        flow_at++
        return value
    }
    if (c == "\"") {
        for (flow_at++; (c = peek()) != "\"" && c != ""; flow_at++)
            value = value (c == "\\" ? escaped() : c)
        flow_at++
        return value
    }
    # A character that cannot start a value must be taken anyway, or the caller would never get on.
    for (; (c = peek()) != ""; flow_at++) {
        if (c == "," || c == "]" || c == "}" || c == "[" || c == "{") break
        next_ = substr(flow_text, flow_at + 1, 1)
        if (c == ":" && (is_key || next_ == " " || next_ == "")) break
        value = value c
    }
    if (value == "") flow_at++
    return trimmed(value)
}

# The character that the escape sequence at `flow_at` stands for; leaves `flow_at` on its last character.
function escaped(    c, digits) {
    if (flow_at == length(flow_text)) {
        if (at <= lines) { flow_text = flow_text trimmed(line[at++]); return "" }
        return "\\"
    }
    c = substr(flow_text, ++flow_at, 1)
    if (c == "n") return "\n"
    if (c == "t") return "\t"
    if (c == "r") return "\r"
    if (c == "e") return "\033"
    if (c == "0") return ""
    if (c == "x" || c == "u") {
        digits = c == "x" ? 2 : 4
        c = utf8(hex(substr(flow_text, flow_at + 1, digits)))
        flow_at += digits
    }
    return c
}

function hex(text,    value, i) {
    for (i = 1; i <= length(text); i++)
        value = value * 16 + index("0123456789abcdef", tolower(substr(text, i, 1))) - 1
    return value
}

function utf8(code) {
    if (code < 128) return sprintf("%c", code)
    if (code < 2048) return sprintf("%c%c", 192 + int(code / 64), 128 + code % 64)
    return sprintf("%c%c%c", 224 + int(code / 4096), 128 + int(code / 64) % 64, 128 + code % 64)
}
