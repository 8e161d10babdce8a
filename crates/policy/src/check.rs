//! The rules an entry must follow beyond being readable: limits, agents of this trust domain, DNS syntax.

use mintage_identity::{AgentPattern, TrustDomain, check_audience};

use crate::entry::{Entry, EntryError};
use crate::limits;
use crate::problem::printable;
use crate::selectors;

/// Checks every rule on an entry whose names were parsed.
pub(crate) fn rules(entry: &Entry, domain: &TrustDomain) -> Result<(), EntryError> {
    agents(entry, domain)?;
    selectors::check(entry)?;
    dns_names(&entry.dns_names)?;
    if let Some(name) = &entry.common_name {
        common_name(name)?;
    }
    note("hint", &entry.hint, limits::HINT_BYTES_MAX)?;
    note("owner", &entry.owner, limits::NOTE_BYTES_MAX)?;
    note("environment", &entry.environment, limits::NOTE_BYTES_MAX)?;
    note("purpose", &entry.purpose, limits::NOTE_BYTES_MAX)?;
    jwt(entry)?;
    federation(entry, domain)?;
    whole(entry)
}

fn jwt(entry: &Entry) -> Result<(), EntryError> {
    let field = "jwt_audiences";
    let audiences = &entry.jwt_audiences;
    if entry.jwt_forbidden && !audiences.is_empty() {
        let problem = "names audiences, and jwt_forbidden says that there is no JWT-SVID at all; remove one of the two";
        return Err(EntryError::new(field, problem));
    }
    count(
        field,
        audiences.len(),
        limits::JWT_AUDIENCES_PER_ENTRY_MAX,
        "leave it out to allow any",
    )?;
    for (position, audience) in audiences.iter().enumerate() {
        check_audience(audience).map_err(|error| EntryError::at(field, position, error))?;
        if audiences[..position].contains(audience) {
            let problem = format!("{audience:?} is written twice; remove one");
            return Err(EntryError::at(field, position, problem));
        }
    }
    Ok(())
}

fn federation(entry: &Entry, domain: &TrustDomain) -> Result<(), EntryError> {
    let field = "federates_with";
    count(
        field,
        entry.federates_with.len(),
        limits::FEDERATES_WITH_PER_ENTRY_MAX,
        "name those that the workload speaks with",
    )?;
    match entry.federates_with.contains(domain) {
        true => Err(EntryError::new(
            field,
            format!("names {domain}, the own trust domain, whose bundle every workload is given; remove it"),
        )),
        false => Ok(()),
    }
}

fn agents(entry: &Entry, domain: &TrustDomain) -> Result<(), EntryError> {
    count(
        "agents",
        entry.agents.len(),
        limits::AGENTS_PER_ENTRY_MAX,
        "name a prefix ending in /*",
    )?;
    if entry.agents.is_empty() {
        let problem = format!("is empty; name an agent such as spiffe://{domain}/mintage/agent/NAME");
        return Err(EntryError::new("agents", problem));
    }
    for pattern in &entry.agents {
        if pattern.trust_domain_str() != domain.as_str() {
            let problem = format!("{pattern} is of another trust domain; agents here are below spiffe://{domain}/");
            return Err(EntryError::new("agents", problem));
        }
        if let AgentPattern::Prefix(prefix) = pattern {
            let path = prefix.stem().path();
            let above = matches!(path, "" | "/mintage" | "/mintage/agent");
            if !above && !path.starts_with("/mintage/agent/") {
                let problem =
                    format!("{pattern} can never match an agent; agents are spiffe://{domain}/mintage/agent/*");
                return Err(EntryError::new("agents", problem));
            }
        }
    }
    Ok(())
}

fn dns_names(names: &[String]) -> Result<(), EntryError> {
    count(
        "dns_names",
        names.len(),
        limits::DNS_NAMES_PER_ENTRY_MAX,
        "split the entry",
    )?;
    for (position, name) in names.iter().enumerate() {
        dns_name(name)
            .map_err(|problem| EntryError::at("dns_names", position, format!("\"{}\" {problem}", printable(name))))?;
        if names[..position].contains(name) {
            return Err(EntryError::at(
                "dns_names",
                position,
                format!("{name:?} is written twice; remove one"),
            ));
        }
    }
    Ok(())
}

/// Preferred name syntax (RFC 1034 section 3.5, RFC 1123 section 2.1), in lower case, fully written out.
fn dns_name(name: &str) -> Result<(), String> {
    if name.is_empty() || name.len() > limits::DNS_NAME_BYTES_MAX {
        return Err(format!(
            "is {} bytes long; 1 to {} are allowed",
            name.len(),
            limits::DNS_NAME_BYTES_MAX
        ));
    }
    if name.contains('*') {
        return Err("has a wildcard, which would let this workload answer for others; write whole names".into());
    }
    if name.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err("has an upper-case letter; DNS names are written in lower case here".into());
    }
    for label in name.split('.') {
        let good = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-');
        if label.is_empty() || label.len() > limits::DNS_LABEL_BYTES_MAX {
            return Err("has an empty label, a label over 63 bytes or a dot at an end".into());
        }
        if !label.bytes().all(good) || label.starts_with('-') || label.ends_with('-') {
            return Err("has a label with other characters than a-z 0-9 or with - at an end".into());
        }
    }
    let last = name.rsplit('.').next().unwrap_or(name);
    if last.bytes().all(|b| b.is_ascii_digit()) {
        return Err("ends in a number and would be read as an IP address".into());
    }
    Ok(())
}

fn common_name(name: &str) -> Result<(), EntryError> {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'@');
    if name.len() > limits::COMMON_NAME_BYTES_MAX {
        let problem = format!(
            "is {} bytes long, the limit is {}",
            name.len(),
            limits::COMMON_NAME_BYTES_MAX
        );
        return Err(EntryError::new("common_name", problem));
    }
    if !name.bytes().all(good) {
        let problem = format!("\"{}\" has characters other than a-z A-Z 0-9 . - _ @", printable(name));
        return Err(EntryError::new("common_name", problem));
    }
    Ok(())
}

fn note(field: &'static str, text: &str, max: usize) -> Result<(), EntryError> {
    if text.len() > max {
        return Err(EntryError::new(
            field,
            format!("is {} bytes long, the limit is {max}", text.len()),
        ));
    }
    if printable(text) != text {
        return Err(EntryError::new(
            field,
            "has a control character; write it in one plain line",
        ));
    }
    Ok(())
}

pub(crate) fn count(field: &'static str, given: usize, max: usize, remedy: &str) -> Result<(), EntryError> {
    if given > max {
        return Err(EntryError::new(
            field,
            format!("has {given} elements, the limit is {max}; {remedy}"),
        ));
    }
    Ok(())
}

fn whole(entry: &Entry) -> Result<(), EntryError> {
    let raw = entry.to_raw();
    let lists = [
        &raw.agents,
        &raw.selectors,
        &raw.dns_names,
        &raw.jwt_audiences,
        &raw.federates_with,
    ];
    let singles = [
        &raw.name,
        &raw.spiffe_id,
        &raw.common_name,
        &raw.hint,
        &raw.owner,
        &raw.environment,
        &raw.purpose,
    ];
    let bytes = lists
        .into_iter()
        .flatten()
        .chain(singles)
        .map(String::len)
        .sum::<usize>();
    if bytes > limits::ENTRY_TEXT_BYTES_MAX {
        let problem = format!(
            "the entry has {bytes} bytes of text, the limit is {}",
            limits::ENTRY_TEXT_BYTES_MAX
        );
        return Err(EntryError::new("name", problem));
    }
    Ok(())
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
