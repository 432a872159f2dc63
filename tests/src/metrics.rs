//! Metrics: as a process serves them, and as the documentation has them.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};

/// Types and labels of metrics, by name.
pub type Families = BTreeMap<String, Family>;

/// A metric as it is described.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Family {
    /// `counter`, `gauge` or `histogram`.
    pub kind: String,
    /// Names of its labels, without `le`.
    pub labels: BTreeSet<String>,
}

/// One value.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Name with its suffix.
    pub name: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Value.
    pub value: f64,
}

/// All that a process serves.
#[derive(Debug, Clone, Default)]
pub struct Scrape {
    /// What is served.
    pub families: Families,
    /// The values.
    pub samples: Vec<Sample>,
}

impl Scrape {
    /// Asks the process that serves at `url`.
    pub async fn of(url: &str) -> Result<Self> {
        let answer = reqwest::get(format!("{url}/metrics")).await?.error_for_status()?;
        Self::parse(&answer.text().await?)
    }

    /// Reads the text format, in its version 0.0.4.
    pub fn parse(text: &str) -> Result<Self> {
        let mut scrape = Self::default();
        for line in text.lines().filter(|line| !line.is_empty()) {
            if let Some(description) = line.strip_prefix("# TYPE ") {
                let (name, kind) = description.split_once(' ').with_context(|| line.to_owned())?;
                let family = Family { kind: kind.to_owned(), ..Family::default() };
                ensure!(scrape.families.insert(name.to_owned(), family).is_none(), "{name} is there twice");
            } else if !line.starts_with('#') {
                scrape.samples.push(sample(line).with_context(|| line.to_owned())?);
            }
        }
        for sample in &scrape.samples {
            let name = scrape.families.keys().find(|name| belongs(sample, name)).cloned();
            let name = name.with_context(|| format!("{} has no type", sample.name))?;
            let labels = sample.labels.keys().filter(|label| *label != "le").cloned();
            scrape.families.entry(name).or_default().labels.extend(labels);
        }
        Ok(scrape)
    }

    /// The sum of the values of that name that have these labels.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let has = |sample: &&Sample| {
            labels.iter().all(|(label, value)| sample.labels.get(*label).map(String::as_str) == Some(*value))
        };
        self.samples.iter().filter(|sample| sample.name == name).filter(has).map(|sample| sample.value).sum()
    }
}

fn belongs(sample: &Sample, family: &str) -> bool {
    let suffix = sample.name.strip_prefix(family);
    suffix.is_some_and(|suffix| ["", "_bucket", "_sum", "_count"].contains(&suffix))
}

fn sample(line: &str) -> Result<Sample> {
    let (name, rest) = line.split_once(['{', ' ']).context("a name")?;
    let mut labels = BTreeMap::new();
    let mut value = rest;
    if line[name.len()..].starts_with('{') {
        let mut rest = rest;
        loop {
            let (label, after) = rest.split_once("=\"").context("a label")?;
            let end = end_of_value(after).context("the end of a label's value")?;
            labels.insert(label.to_owned(), after[..end].to_owned());
            rest = &after[end + 1..];
            if let Some(after) = rest.strip_prefix(',') {
                rest = after;
            } else {
                value = rest.strip_prefix('}').context("the end of the labels")?;
                break;
            }
        }
    }
    Ok(Sample { name: name.to_owned(), labels, value: value.trim().parse()? })
}

fn end_of_value(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.char_indices().find_map(|(index, c)| {
        let ends = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        ends.then_some(index)
    })
}

/// The table of `docs/metrics.md`, for one of the words in its column *of*.
pub fn documented(of: &str) -> Result<Families> {
    let path = kvmoor_dev::checkout_root().join("docs/metrics.md");
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    table(&text, of)
}

/// The names of all metrics of the table, and those of the series of its histograms.
pub fn documented_series() -> Result<BTreeSet<String>> {
    let mut series = BTreeSet::new();
    for of in ["api", "cluster", "node"] {
        for (name, family) in documented(of)? {
            if family.kind == "histogram" {
                series.extend(["_bucket", "_sum", "_count"].map(|suffix| format!("{name}{suffix}")));
            } else {
                series.insert(name);
            }
        }
    }
    Ok(series)
}

fn table(text: &str, of: &str) -> Result<Families> {
    let (_, table) = text.split_once("| name | type | labels | of | meaning |\n").context("a table of metrics")?;
    let mut families = Families::new();
    for line in table.lines().skip(1).take_while(|line| line.starts_with('|')) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [name, kind, labels, owners, _meaning] = cells.as_slice() else {
            anyhow::bail!("not five columns: {line}");
        };
        if !owners.split(", ").any(|owner| owner == of || owner == "all") {
            continue;
        }
        let labels = labels.split(", ").map(|label| label.trim_matches('`').to_owned());
        let labels = labels.filter(|label| !label.is_empty()).collect();
        let family = Family { kind: (*kind).to_owned(), labels };
        let name = name.trim_matches('`').to_owned();
        ensure!(families.insert(name.clone(), family).is_none(), "{name} is there twice");
    }
    Ok(families)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_format_is_read() {
        let text = "# HELP a_total x\n# TYPE a_total counter\na_total{b=\"c\\\"d, }\",e=\"\"} 3\n\
                    # TYPE h histogram\nh_bucket{le=\"+Inf\",r=\"x\"} 1\nh_sum{r=\"x\"} 0.5\nh_count{r=\"x\"} 1\n";
        let scrape = Scrape::parse(text).unwrap();
        assert_eq!(scrape.families["a_total"].labels, BTreeSet::from(["b".into(), "e".into()]));
        assert_eq!(scrape.families["h"].labels, BTreeSet::from(["r".into()]));
        assert_eq!(scrape.sum("a_total", &[("b", "c\\\"d, }")]), 3.0);
        assert!(Scrape::parse("a 1\n").is_err(), "without a type");
    }

    /// All words in `text` that may be names of metrics.
    fn names(text: &str) -> BTreeSet<String> {
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let names = words.filter(|word| word.starts_with("kvmoor_") || word.starts_with("process_"));
        names.map(str::to_owned).collect()
    }

    fn of_the_chart(file: &str) -> String {
        std::fs::read_to_string(kvmoor_dev::checkout_root().join("charts/kvmoor/files").join(file)).unwrap()
    }

    #[test]
    fn alerts_and_panels_use_what_is_documented() {
        let documented = documented_series().unwrap();
        for file in ["prometheus-rules.yaml", "dashboard.json"] {
            let used = names(&of_the_chart(file));
            let unknown: Vec<_> = used.difference(&documented).collect();
            assert!(used.len() > 5 && unknown.is_empty(), "{file}: {unknown:?}");
        }
    }

    #[test]
    fn every_alert_says_where_to_look() {
        let rules: serde_json::Value = serde_yaml::from_str(&of_the_chart("prometheus-rules.yaml")).unwrap();
        let docs = std::fs::read_to_string(kvmoor_dev::checkout_root().join("docs/metrics.md")).unwrap();
        for rule in rules["groups"][0]["rules"].as_array().unwrap() {
            let name = rule["alert"].as_str().unwrap();
            assert!(docs.contains(&format!("| {name} | ")), "{name} is not in docs/metrics.md");
            assert!(rule["expr"].is_string() && rule["annotations"]["summary"].is_string(), "{rule}");
            assert!(rule["labels"]["severity"].is_string(), "{rule}");
        }
    }

    #[test]
    fn every_panel_has_a_query_and_a_place_of_its_own() {
        let dashboard: serde_json::Value = serde_json::from_str(&of_the_chart("dashboard.json")).unwrap();
        let mut taken = BTreeSet::new();
        for panel in dashboard["panels"].as_array().unwrap() {
            let place = &panel["gridPos"];
            assert!(taken.insert((place["x"].as_i64(), place["y"].as_i64())), "{panel}");
            assert!(panel["type"] == "row" || panel["targets"][0]["expr"].is_string(), "{panel}");
        }
    }

    #[test]
    fn the_table_is_read_by_owner() {
        let text = "| name | type | labels | of | meaning |\n|---|---|---|---|---|\n\
                    | `a` | gauge | | all | x |\n| `b` | counter | `c`, `d` | api, node | y |\n\nend";
        assert_eq!(table(text, "cluster").unwrap().len(), 1);
        assert_eq!(table(text, "node").unwrap()["b"].labels, BTreeSet::from(["c".into(), "d".into()]));
    }
}
