//! Shapes of JSON, written as data: what an answer must look like, and what a schema must promise.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value};

/// Shapes by the name of their interface.
pub type Interfaces = BTreeMap<String, Value>;

/// Checks that `value` has the shape. Fields beyond those named are no fault.
pub fn check(value: &Value, shape: &Value, interfaces: &Interfaces) -> Result<()> {
    match shape {
        Value::String(word) => match interfaces.get(word) {
            Some(interface) => check(value, interface, interfaces).with_context(|| word.clone()),
            None => check_word(value, word),
        },
        Value::Object(fields) => match constraint(fields) {
            Some(("is", expected)) => {
                ensure!(value == expected, "{value} is not {expected}");
                Ok(())
            }
            Some(("oneOf", allowed)) => {
                let allowed = allowed.as_array().context("oneOf has a list")?;
                ensure!(allowed.contains(value), "{value} is none of {allowed:?}");
                Ok(())
            }
            Some((_, each)) => {
                let items = value.as_array().with_context(|| format!("{value} is no list"))?;
                items.iter().try_for_each(|item| check(item, each, interfaces))
            }
            None => {
                ensure!(value.is_object(), "{value} is no object");
                for (field, shape) in fields {
                    let (name, optional) = name(field);
                    match value.get(name) {
                        None if optional => {}
                        None => bail!("{name} is missing in {value}"),
                        Some(value) => check(value, shape, interfaces).with_context(|| name.to_owned())?,
                    }
                }
                Ok(())
            }
        },
        other => bail!("{other} is no shape"),
    }
}

fn name(field: &str) -> (&str, bool) {
    field.strip_suffix('?').map_or((field, false), |name| (name, true))
}

/// The one field of a shape that is no object's.
fn constraint(fields: &Map<String, Value>) -> Option<(&str, &Value)> {
    let mut all = fields.iter();
    match (all.next(), all.next()) {
        (Some((key, value)), None) if ["is", "oneOf", "list"].contains(&key.as_str()) => Some((key, value)),
        _ => None,
    }
}

fn check_word(value: &Value, word: &str) -> Result<()> {
    let text = value.as_str();
    let fits = match word {
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "string" => text.is_some(),
        "time" => text.is_some_and(|text| text.ends_with('Z') && text.parse::<jiff::Timestamp>().is_ok()),
        "uuid" => text.is_some_and(|text| text.parse::<uuid::Uuid>().is_ok()),
        "token" => text.is_some_and(|text| text.starts_with("eyJ") && text.split('.').count() == 3),
        other => bail!("{other} is no shape"),
    };
    ensure!(fits, "{value} is no {word}");
    Ok(())
}

/// Checks that whatever fits the schema has the shape: the fields, their types, and which may be missing.
pub fn check_schema(schema: &Value, shape: &Value, document: &Value) -> Result<()> {
    let schema = resolve(schema, document)?;
    match shape {
        Value::String(word) => {
            let allowed: &[&str] = match word.as_str() {
                "number" => &["integer", "number"],
                "boolean" => &["boolean"],
                _ => &["string"],
            };
            // A list of types would let null in, which the interfaces do not.
            let type_ = schema["type"].as_str().with_context(|| format!("one type: {schema}"))?;
            ensure!(allowed.contains(&type_), "{type_} is no {word}");
            Ok(())
        }
        Value::Object(fields) => match constraint(fields) {
            Some(("oneOf", allowed)) => {
                let sorted = |values: Vec<Value>| {
                    let mut texts: Vec<_> = values.iter().map(Value::to_string).collect();
                    texts.sort();
                    texts
                };
                let allowed = sorted(allowed.as_array().context("oneOf has a list")?.clone());
                let promised = sorted(values(schema).with_context(|| format!("no fixed values: {schema}"))?);
                ensure!(promised == allowed, "{promised:?} are not {allowed:?}");
                Ok(())
            }
            Some((word, _)) => bail!("{word} has no schema"),
            None => {
                let required = schema["required"].as_array().cloned().unwrap_or_default();
                for (field, shape) in fields {
                    let (name, optional) = name(field);
                    let property = schema["properties"].get(name);
                    let property = property.with_context(|| format!("{name} is not in {schema}"))?;
                    ensure!(
                        required.iter().any(|field| field == name) != optional,
                        "{name} is {}required",
                        if optional { "" } else { "not " }
                    );
                    check_schema(property, shape, document).with_context(|| name.to_owned())?;
                }
                Ok(())
            }
        },
        other => bail!("{other} is no shape"),
    }
}

/// Follows references, also those that stand alone in allOf beside a description.
fn resolve<'a>(schema: &'a Value, document: &'a Value) -> Result<&'a Value> {
    if let Some(reference) = schema["$ref"].as_str() {
        let pointer = reference.strip_prefix('#').context("a reference into the document")?;
        return resolve(document.pointer(pointer).with_context(|| format!("{reference} leads nowhere"))?, document);
    }
    match schema["allOf"].as_array().map(Vec::as_slice) {
        Some([only]) => resolve(only, document),
        _ => Ok(schema),
    }
}

/// The values of an enumeration, in either way of writing one.
fn values(schema: &Value) -> Option<Vec<Value>> {
    if let Some(values) = schema["enum"].as_array() {
        return Some(values.clone());
    }
    let each = schema["oneOf"].as_array()?.iter().map(values);
    each.collect::<Option<Vec<_>>>().map(|all| all.concat())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_fit_or_do_not() {
        let interfaces = Interfaces::from([("Thing".to_owned(), json!({ "id": "number", "note?": "string" }))]);
        let fits = |value: Value, shape: Value| check(&value, &shape, &interfaces).is_ok();
        assert!(fits(json!({ "id": 1, "more": null }), json!("Thing")));
        assert!(fits(json!([{ "id": 1, "note": "x" }]), json!({ "list": "Thing" })));
        assert!(!fits(json!({ "id": 1, "note": null }), json!("Thing")));
        assert!(!fits(json!({ "note": "x" }), json!("Thing")));
        assert!(!fits(json!([{}]), json!({ "list": "Thing" })));
        assert!(fits(json!("a"), json!({ "oneOf": ["a", "b"] })) && !fits(json!("c"), json!({ "oneOf": ["a", "b"] })));
        assert!(fits(json!("2024-12-23T10:00:00Z"), json!("time")) && !fits(json!("yesterday"), json!("time")));
        assert!(!fits(json!(1), json!("unheard-of")));
    }

    #[test]
    fn schemas_promise_or_do_not() {
        let document = json!({ "components": { "schemas": {
            "Role": { "type": "string", "enum": ["b", "a"] },
        } } });
        let schema = |required: Value, id: Value| {
            json!({
                "type": "object", "required": required,
                "properties": {
                    "id": id, "role": { "allOf": [{ "$ref": "#/components/schemas/Role" }], "description": "x" },
                },
            })
        };
        let shape = json!({ "id?": "number", "role": { "oneOf": ["a", "b"] } });
        let good = |required: Value, id: Value| check_schema(&schema(required, id), &shape, &document).is_ok();
        assert!(good(json!(["role"]), json!({ "type": "integer" })));
        assert!(!good(json!(["role", "id"]), json!({ "type": "integer" })), "required");
        assert!(!good(json!([]), json!({ "type": "integer" })), "not required");
        assert!(!good(json!(["role"]), json!({ "type": "string" })), "another type");
        assert!(!good(json!(["role"]), json!({ "type": ["integer", "null"] })), "null");
        let other = json!({ "role": { "oneOf": ["a"] } });
        assert!(check_schema(&schema(json!(["role"]), json!({})), &other, &document).is_err());
    }
}
