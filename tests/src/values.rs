//! `docs/values.md`, made from the comments in the chart's `values.yaml`.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// Defaults that are longer are not repeated.
const LONGEST: usize = 100;

const HEAD: &str = "# Values of the chart\n\nMade from the comments in `charts/kvmoor/values.yaml` by `make values`. Values that make no sense are refused \
                    by `values.schema.json` and by the chart itself, with a sentence that says why.\n";

/// A key of the file with what stands above it.
#[derive(Debug)]
struct Key {
    path: Vec<String>,
    comment: String,
    /// Whether a key below it has a comment.
    is_section: bool,
}

/// The reference.
///
/// # Errors
/// When the text is not YAML, or a value has no comment.
pub fn reference(text: &str) -> Result<String> {
    let values: Value = serde_yaml::from_str(text)?;
    let keys = keys(text);
    let mut out = HEAD.to_owned();
    let mut in_table = false;
    for key in &keys {
        let name = key.path.join(".");
        if key.is_section {
            if key.path.len() == 1 {
                out.push_str(&format!("\n## {name}\n\n"));
                if !key.comment.is_empty() {
                    out.push_str(&format!("{}\n\n", key.comment));
                }
                out.push_str("| value | default | meaning |\n|---|---|---|\n");
                in_table = true;
            }
            continue;
        }
        let is_below_leaf = keys.iter().any(|other| !other.is_section && is_below(&key.path, &other.path));
        if is_below_leaf {
            continue;
        }
        ensure!(!key.comment.is_empty(), "{name} has no comment");
        let value = key.path.iter().try_fold(&values, |value, part| value.get(part));
        let value = value.with_context(|| format!("{name} is not in the file"))?.to_string();
        if key.path.len() == 1 {
            out.push_str(&format!("\n## {name}\n\n{}\n", key.comment));
            in_table = false;
            continue;
        }
        ensure!(in_table, "{name} is in no section");
        let default = if value.len() > LONGEST { "see `values.yaml`".to_owned() } else { format!("`{value}`") };
        out.push_str(&format!("| `{name}` | {default} | {} |\n", key.comment.replace('|', "\\|")));
    }
    Ok(out)
}

fn is_below(path: &[String], other: &[String]) -> bool {
    path.len() > other.len() && path.starts_with(other)
}

/// All keys of block mappings, in their order.
fn keys(text: &str) -> Vec<Key> {
    let mut keys: Vec<Key> = Vec::new();
    let mut stack: Vec<(usize, String)> = Vec::new();
    let mut comment = Vec::new();
    for line in text.lines() {
        let trimmed = line.trim_start();
        if let Some(words) = trimmed.strip_prefix('#') {
            comment.push(words.trim());
            continue;
        }
        let indent = line.len() - trimmed.len();
        if let Some((name, _)) = trimmed.split_once(':').filter(|(name, _)| !name.contains([' ', '{', '"'])) {
            stack.retain(|(other, _)| *other < indent);
            stack.push((indent, name.to_owned()));
            let path: Vec<_> = stack.iter().map(|(_, name)| name.clone()).collect();
            keys.push(Key { path, comment: comment.join(" "), is_section: false });
        }
        comment.clear();
    }
    let commented: Vec<_> = keys.iter().filter(|key| !key.comment.is_empty()).map(|key| key.path.clone()).collect();
    for key in &mut keys {
        key.is_section = commented.iter().any(|path| is_below(path, &key.path));
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_become_rows() {
        let text = "# For the file.\n\na:\n  # One | two,\n  # three.\n  b: 1\n  c:\n    # Deep.\n    d: {}\n\n# Alone.\ne:\n  f: 2\n";
        let made = reference(text).unwrap();
        let rows: Vec<_> = made.lines().skip_while(|line| !line.starts_with("## ")).collect();
        let expected = [
            "## a",
            "",
            "| value | default | meaning |",
            "|---|---|---|",
            "| `a.b` | `1` | One \\| two, three. |",
            "| `a.c.d` | `{}` | Deep. |",
            "",
            "## e",
            "",
            "Alone.",
        ];
        assert_eq!(rows, expected);
    }

    #[test]
    fn a_value_without_a_comment_is_an_error() {
        let error = reference("a:\n  # One.\n  b: 1\n  c: 2\n").unwrap_err().to_string();
        assert_eq!(error, "a.c has no comment");
    }
}
