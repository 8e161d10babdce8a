//! Entries out of SPIRE: reads `spire-server entry show -output json` and says, entry by entry, what was not taken over.
//!
//! Nothing is widened: an entry with a selector or a parent that has no counterpart here is left out with the reason,
//! never taken over without it.

use std::collections::{BTreeMap, BTreeSet};

use mintage_identity::{AgentPattern, TrustDomain};
use serde::Deserialize;
use serde_json::Value;

use crate::entry::{Entry, RawEntry};
use crate::limits::{ENTRIES_MAX, SPIRE_JSON_BYTES_MAX};
use crate::problem::printable;

/// Longest stem of a derived entry name, which leaves room for a number behind it.
const NAME_STEM_BYTES_MAX: usize = 100;

/// How SPIRE's parents become agents here.
#[derive(Clone, Debug, Default)]
pub struct SpireImport {
    /// A parent's SPIFFE ID as SPIRE shows it, and the agents it stands for here. An alias of several nodes is a
    /// parent too.
    pub agents: BTreeMap<String, Vec<AgentPattern>>,
    /// The agents for every parent below `/spire/agent/` that is not in `agents`; none leaves such entries out.
    pub other_agents: Option<AgentPattern>,
}

/// Something about one of SPIRE's entries that the operator should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportNote {
    /// SPIRE's id of the entry.
    pub entry_id: String,
    /// The entry's name here; none when it was left out.
    pub name: Option<String>,
    /// What could not be taken over, or why it was left out.
    pub text: String,
}

/// What an import gave.
#[derive(Clone, Debug, Default)]
pub struct SpireImported {
    /// The entries, valid, ordered by name.
    pub entries: Vec<Entry>,
    /// What was not taken over, in the order of the input.
    pub notes: Vec<ImportNote>,
}

#[derive(Deserialize)]
struct Shown {
    #[serde(default)]
    entries: Vec<SpireEntry>,
    #[serde(default)]
    next_page_token: String,
}

#[derive(Deserialize)]
struct SpireEntry {
    #[serde(default)]
    id: String,
    spiffe_id: SpireId,
    parent_id: SpireId,
    #[serde(default)]
    selectors: Vec<SpireSelector>,
    #[serde(default)]
    x509_svid_ttl: Number,
    #[serde(default)]
    dns_names: Vec<String>,
    #[serde(default)]
    hint: String,
    #[serde(default)]
    federates_with: Vec<String>,
    /// All other fields: noted when they carry something.
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
struct SpireId {
    trust_domain: String,
    #[serde(default)]
    path: String,
}

#[derive(Deserialize)]
struct SpireSelector {
    #[serde(rename = "type")]
    kind: String,
    value: String,
}

/// A number that protobuf's JSON form may write as text.
#[derive(Deserialize, Default)]
#[serde(untagged)]
enum Number {
    Text(String),
    Plain(i64),
    #[default]
    Absent,
}

impl Number {
    fn value(&self) -> Option<i64> {
        match self {
            Self::Text(text) => text.parse().ok(),
            Self::Plain(number) => Some(*number),
            Self::Absent => Some(0),
        }
    }
}

impl SpireId {
    fn text(&self) -> String {
        format!("spiffe://{}{}", self.trust_domain, self.path)
    }
}

/// Reads SPIRE's JSON into entries of `domain`.
///
/// # Errors
/// Text that is not of this form, is too large, or is one page of several.
pub fn import_spire_json(json: &str, domain: &TrustDomain, options: &SpireImport) -> Result<SpireImported, String> {
    if json.len() > SPIRE_JSON_BYTES_MAX {
        return Err(format!(
            "the export has {} bytes, the limit is {SPIRE_JSON_BYTES_MAX}; split it",
            json.len()
        ));
    }
    let shown: Shown = serde_json::from_str(json).map_err(|error| {
        let error = printable(&error.to_string());
        format!("not the output of `spire-server entry show -output json`: {error}")
    })?;
    if !shown.next_page_token.is_empty() {
        return Err("the export is one page of several; export all pages and join their entries".into());
    }
    if shown.entries.len() > ENTRIES_MAX {
        return Err(format!(
            "{} entries, the limit is {ENTRIES_MAX}; split the export",
            shown.entries.len()
        ));
    }
    let mut import = Import {
        domain,
        options,
        names: BTreeSet::new(),
        merged: BTreeMap::new(),
        notes: Vec::new(),
    };
    for entry in &shown.entries {
        if let Err(reason) = import.take(entry) {
            import.note(entry, None, format!("left out: {reason}"));
        }
    }
    Ok(import.finish())
}

/// What two of SPIRE's entries must share to become one entry with both parents' agents.
type MergeKey = (String, BTreeSet<String>, i64, Vec<String>, String, Vec<String>);

struct Import<'a> {
    domain: &'a TrustDomain,
    options: &'a SpireImport,
    names: BTreeSet<String>,
    merged: BTreeMap<MergeKey, Entry>,
    notes: Vec<ImportNote>,
}

impl Import<'_> {
    fn take(&mut self, entry: &SpireEntry) -> Result<(), String> {
        if entry.rest.get("downstream") == Some(&Value::Bool(true)) {
            return Err("it is for a downstream SPIRE server".into());
        }
        if let Some(expires) = entry.rest.get("expires_at").filter(|value| carries(value)) {
            let at = expires.as_str().map_or_else(|| expires.to_string(), str::to_owned);
            return Err(format!(
                "it expires at {} and entries here do not expire",
                printable(&at)
            ));
        }
        let agents = self.agents_of(&entry.parent_id)?;
        let selectors: BTreeSet<String> = entry.selectors.iter().map(selector).collect::<Result<_, _>>()?;
        let ttl_seconds = entry.x509_svid_ttl.value().ok_or("x509_svid_ttl is no number")?;
        let spiffe_id = entry.spiffe_id.text();
        let federates_with: BTreeSet<&str> = entry.federates_with.iter().map(|name| domain_name(name)).collect();
        let federates_with: Vec<String> = federates_with.into_iter().map(str::to_owned).collect();
        let key = (
            spiffe_id.clone(),
            selectors.clone(),
            ttl_seconds,
            entry.dns_names.clone(),
            entry.hint.clone(),
            federates_with.clone(),
        );
        let standing = self.merged.get(&key);
        let mut all: BTreeSet<String> = agents.iter().map(ToString::to_string).collect();
        all.extend(
            standing
                .iter()
                .flat_map(|entry| entry.agents())
                .map(ToString::to_string),
        );
        let name = standing.map_or_else(|| self.fresh_name(entry), |entry| entry.name().to_string());
        let raw = RawEntry {
            name: name.clone(),
            spiffe_id,
            agents: all.into_iter().collect(),
            selectors: selectors.into_iter().collect(),
            ttl_seconds,
            dns_names: entry.dns_names.clone(),
            hint: entry.hint.clone(),
            federates_with,
            ..RawEntry::default()
        };
        let valid = raw.validate(self.domain).map_err(|error| error.to_string())?;
        self.names.insert(name.clone());
        if standing.is_some() {
            self.note(
                entry,
                Some(&name),
                "joined with an entry that differs only in its parent".into(),
            );
        }
        self.merged.insert(key, valid);
        self.note_rest(entry, &name, ttl_seconds);
        Ok(())
    }

    /// The agents that stand for a parent.
    fn agents_of(&self, parent: &SpireId) -> Result<Vec<AgentPattern>, String> {
        let id = parent.text();
        if let Some(agents) = self.options.agents.get(&id) {
            return Ok(agents.clone());
        }
        let shown = printable(&id);
        if parent.path == "/spire/server" {
            return Err(format!(
                "its parent {shown} makes it a node alias; map the alias to agents instead: --map ALIAS=PATTERN"
            ));
        }
        if parent.path.starts_with("/spire/agent/") {
            return self
                .options
                .other_agents
                .clone()
                .map(|pattern| vec![pattern])
                .ok_or_else(|| {
                    format!(
                        "its parent {shown} is not mapped; say which agent of this CA it is by --map PARENT=PATTERN, or \
                         who stands for all others by --agents PATTERN"
                    )
                });
        }
        Err(format!(
            "its parent {shown} is neither an agent nor mapped; say which agents of this CA it stands for by --map \
             PARENT=PATTERN"
        ))
    }

    /// A name nobody has yet, made of the path, or of SPIRE's id when the path gives none.
    fn fresh_name(&self, entry: &SpireEntry) -> String {
        let stem = Some(name_stem(&entry.spiffe_id.path)).filter(|stem| !stem.is_empty());
        let stem = stem.or_else(|| Some(name_stem(&entry.id)).filter(|stem| !stem.is_empty()));
        let stem = stem.unwrap_or_else(|| "entry".into());
        let numbered = (2..=ENTRIES_MAX + 1).map(|n| format!("{stem}-{n}"));
        let mut candidates = std::iter::once(stem.clone()).chain(numbered);
        candidates.find(|name| !self.names.contains(name)).unwrap_or(stem)
    }

    fn note(&mut self, entry: &SpireEntry, name: Option<&str>, text: String) {
        let entry_id = printable(&entry.id);
        self.notes.push(ImportNote {
            entry_id,
            name: name.map(str::to_owned),
            text: printable(&text),
        });
    }

    /// Notes for fields that were read over.
    fn note_rest(&mut self, entry: &SpireEntry, name: &str, ttl_seconds: i64) {
        if ttl_seconds == 0 {
            self.note(
                entry,
                Some(name),
                "SPIRE's server default lifetime becomes 10m, the default here".into(),
            );
        }
        let told = |field: &&String| !matches!(field.as_str(), "revision_number" | "created_at");
        let fields: Vec<String> = entry
            .rest
            .iter()
            .filter(|(_, v)| carries(v))
            .map(|(field, _)| field)
            .filter(told)
            .cloned()
            .collect();
        for field in fields {
            let why = match field.as_str() {
                "admin" => "rights over the CA's own API are not given by entries",
                "jwt_svid_ttl" => "the lifetime of JWT-SVIDs is the server's",
                "store_svid" => "secret stores are not fed by entries",
                _ => "it has no counterpart",
            };
            self.note(entry, Some(name), format!("{field} was not taken over: {why}"));
        }
    }

    fn finish(self) -> SpireImported {
        let mut entries: Vec<Entry> = self.merged.into_values().collect();
        entries.sort_by(|a, b| a.name().cmp(b.name()));
        SpireImported {
            entries,
            notes: self.notes,
        }
    }
}

/// A trust domain's bare name, which SPIRE's tools write as an ID too.
fn domain_name(text: &str) -> &str {
    text.strip_prefix("spiffe://").unwrap_or(text)
}

/// SPIRE's selector in our form; those that name a user or a group by its name depend on the node's files.
fn selector(selector: &SpireSelector) -> Result<String, String> {
    let text = format!("{}:{}", selector.kind, selector.value);
    for (named, numeric) in [("unix:user:", "unix:uid:N"), ("unix:group:", "unix:gid:N")] {
        if text.starts_with(named) {
            return Err(format!(
                "its selector {} is a name, not a number; use {numeric}",
                printable(&text)
            ));
        }
    }
    match selector.kind.as_str() {
        // What cannot be shown is refused with the entry.
        "unix" | "docker" | "k8s" => Ok(text),
        "systemd" if selector.value.starts_with("id:") => Ok(text.replacen(":id:", ":unit:", 1)),
        _ => Err(format!("its selector {} has no counterpart", printable(&text))),
    }
}

/// `/ns/prod/sa/web` as `ns-prod-sa-web`: only letters, digits, `.`, `_` and `-`, starting with a letter or digit.
fn name_stem(path: &str) -> String {
    let safe = |c: char| {
        if c.is_ascii_alphanumeric() || matches!(c, '.' | '_') {
            c
        } else {
            '-'
        }
    };
    let text: String = path.chars().map(safe).collect();
    let text = text
        .trim_start_matches(|c: char| !c.is_ascii_alphanumeric())
        .trim_end_matches('-');
    text.chars().take(NAME_STEM_BYTES_MAX).collect()
}

/// False for what protobuf's JSON form writes for a field that was never set.
fn carries(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(set) => *set,
        Value::Number(number) => number.as_i64() != Some(0),
        Value::String(text) => !text.is_empty() && text != "0",
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}

#[cfg(test)]
#[path = "spire_tests.rs"]
mod tests;
