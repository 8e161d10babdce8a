//! Events held against excerpts of the published schemas: nothing they do not know, everything they require, each value of
//! the type and among the numbers or words they allow.

use serde_json::{Map, Value};

/// The classes and objects of OCSF 1.6.0 that exports use.
pub(super) fn ocsf() -> Value {
    serde_json::from_str(include_str!("../schema/ocsf-1.6.0.json")).unwrap()
}

/// The fields of ECS 8.17.0 that exports use.
pub(super) fn ecs() -> Value {
    serde_json::from_str(include_str!("../schema/ecs-8.17.0.json")).unwrap()
}

/// What is wrong with an OCSF event.
pub(super) fn wrong_ocsf(schema: &Value, event: &Value) -> Vec<String> {
    let mut wrong = Vec::new();
    let uid = &event["class_uid"];
    let classes = schema["classes"].as_object().unwrap();
    let Some((name, class)) = classes.iter().find(|(_, class)| class["class_uid"] == *uid) else {
        return vec![format!("no class {uid}")];
    };
    object(schema, name, class, event, &mut wrong);
    let number = |field: &str| event[field].as_u64().unwrap_or(u64::MAX);
    if number("type_uid") != number("class_uid") * 100 + number("activity_id") {
        wrong.push(format!("{name}: type_uid {}", event["type_uid"]));
    }
    if event["metadata"]["version"] != schema["version"] {
        wrong.push("metadata.version".into());
    }
    wrong
}

/// Holds one object against its description.
pub(super) fn object(schema: &Value, name: &str, class: &Value, value: &Value, wrong: &mut Vec<String>) {
    let Some(fields) = value.as_object() else {
        wrong.push(format!("{name} is no object: {value}"));
        return;
    };
    for required in class["required"].as_array().unwrap() {
        if !fields.contains_key(required.as_str().unwrap()) {
            wrong.push(format!("{name} without {required}"));
        }
    }
    if let Some(some) = class["at_least_one"].as_array()
        && !some.iter().any(|field| fields.contains_key(field.as_str().unwrap()))
    {
        wrong.push(format!("{name} without any of {some:?}"));
    }
    for (field, value) in fields {
        match class["attributes"].get(field) {
            None => wrong.push(format!("{name} has no {field}")),
            Some(attribute) => one(schema, &format!("{name}.{field}"), attribute, value, wrong),
        }
    }
}

fn one(schema: &Value, place: &str, attribute: &Value, value: &Value, wrong: &mut Vec<String>) {
    if attribute["array"] == true {
        let Some(values) = value.as_array() else {
            wrong.push(format!("{place} is no array: {value}"));
            return;
        };
        values
            .iter()
            .for_each(|value| single(schema, place, attribute, value, wrong));
    } else {
        single(schema, place, attribute, value, wrong);
    }
}

fn single(schema: &Value, place: &str, attribute: &Value, value: &Value, wrong: &mut Vec<String>) {
    let kind = attribute["type"].as_str().unwrap();
    let fits = match kind {
        "string_t" | "username_t" | "process_name_t" | "file_hash_t" => {
            value.as_str().is_some_and(|text| !text.is_empty())
        }
        "integer_t" => value.as_i64().is_some_and(|number| i32::try_from(number).is_ok()),
        "long_t" | "timestamp_t" => value.is_i64() || value.is_u64(),
        "boolean_t" => value.is_boolean(),
        "json_t" => true,
        "object" => value.is_object(),
        other => {
            match schema["objects"].get(other) {
                Some(described) => object(schema, other, described, value, wrong),
                None => wrong.push(format!("{place}: the excerpt has no object {other}")),
            }
            true
        }
    };
    let allowed = attribute["enum"].as_array();
    if !fits || allowed.is_some_and(|allowed| !allowed.contains(value)) {
        wrong.push(format!("{place}: {value} is not of {attribute}"));
    }
}

/// What is wrong with an ECS event. What is ours stands under `mintage`.
pub(super) fn wrong_ecs(schema: &Value, event: &Value) -> Vec<String> {
    let mut flat = Map::new();
    for (name, value) in event.as_object().unwrap() {
        if name != "mintage" {
            flatten(name, value, &mut flat);
        }
    }
    let mut wrong = Vec::new();
    for required in schema["required"].as_array().unwrap() {
        if !flat.contains_key(required.as_str().unwrap()) {
            wrong.push(format!("no {required}"));
        }
    }
    for (name, value) in &flat {
        match schema["fields"].get(name) {
            None => wrong.push(format!("the schema has no {name}")),
            Some(field) => ecs_field(name, field, value, &mut wrong),
        }
    }
    let categories = flat["event.category"].as_array().unwrap();
    for kind in flat["event.type"].as_array().unwrap() {
        let fits = |category: &Value| {
            let types = schema["types_of_category"].get(category.as_str().unwrap());
            types
                .and_then(Value::as_array)
                .is_some_and(|types| types.contains(kind))
        };
        if !categories.iter().any(fits) {
            wrong.push(format!("{kind} is no type of {categories:?}"));
        }
    }
    if flat["ecs.version"] != schema["version"] {
        wrong.push("ecs.version".into());
    }
    wrong
}

fn flatten(name: &str, value: &Value, flat: &mut Map<String, Value>) {
    match value {
        Value::Object(fields) => fields
            .iter()
            .for_each(|(field, value)| flatten(&format!("{name}.{field}"), value, flat)),
        value => drop(flat.insert(name.to_owned(), value.clone())),
    }
}

fn ecs_field(name: &str, field: &Value, value: &Value, wrong: &mut Vec<String>) {
    let values = match (field["array"] == true, value) {
        (true, Value::Array(values)) => values.clone(),
        (false, value) if !value.is_array() => vec![value.clone()],
        _ => {
            wrong.push(format!("{name}: {value} is not of {field}"));
            return;
        }
    };
    for value in values {
        let fits = match field["type"].as_str().unwrap() {
            "date" => value
                .as_str()
                .is_some_and(|text| text.len() == 24 && text.ends_with('Z')),
            "keyword" | "match_only_text" | "wildcard" => value.as_str().is_some_and(|text| !text.is_empty()),
            "long" => value.is_i64() || value.is_u64(),
            other => panic!("{name}: {other}"),
        };
        let allowed = field["values"].as_array();
        if !fits || allowed.is_some_and(|allowed| !allowed.contains(&value)) {
            wrong.push(format!("{name}: {value} is not of {field}"));
        }
    }
}
