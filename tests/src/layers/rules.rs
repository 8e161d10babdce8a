//! The checks on our own crates: every broken edge by name.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::house::{Crate, House, Target};
use super::table::{CA, CA_IMPORTERS, DEPTH_MAX, HOMES, NEVER, ROOMS, UNSAFE_ALLOWED, WITHOUT, room_of};
use crate::tidy::code;
use crate::tidy::tree::File;

/// Crates without a row, rows without a crate, and crates whose folder does not carry their name.
pub fn rooms(house: &House) -> Vec<String> {
    let mut broken = Vec::new();
    for room in ROOMS {
        if !house.crates.iter().any(|found| found.folder == room.folder) {
            broken.push(format!("the table has a row for {}, which does not exist", room.folder));
        }
    }
    for found in &house.crates {
        if room_of(&found.folder).is_none() {
            broken.push(format!("{} has no row in the table", found.folder));
        }
        if found
            .directory
            .file_name()
            .is_none_or(|name| name.to_string_lossy() != found.folder)
        {
            broken.push(format!("{} lies in {}", found.folder, found.directory.display()));
        }
    }
    broken
}

/// Normal and build edges that the table does not allow.
pub fn imports(house: &House) -> Vec<String> {
    let mut broken = Vec::new();
    for (from, to) in house.crates.iter().flat_map(normal_edges) {
        if !room_of(from).is_some_and(|room| room.may.import(to)) {
            broken.push(format!("{from} -> {to}: not in {from}'s row"));
        }
    }
    broken
}

/// Edges of any kind that lead, also through other crates, to what a crate must never reach.
pub fn never(house: &House) -> Vec<String> {
    let normal: BTreeMap<&str, Vec<&str>> = house
        .crates
        .iter()
        .map(|found| (found.folder.as_str(), normal_edges(found).map(|(_, to)| to).collect()))
        .collect();
    let mut broken = Vec::new();
    for rule in NEVER {
        let Some(found) = house.crates.iter().find(|found| found.folder == rule.from) else {
            continue;
        };
        for edge in &found.edges {
            let Target::Ours(first) = &edge.to else { continue };
            if let Some(rest) = path(&normal, first, rule.to) {
                broken.push(format!("{} -> {}: {}", rule.from, rest.join(" -> "), rule.why));
            }
        }
    }
    for found in &house.crates {
        let names_ca = found.edges.iter().any(|edge| edge.to == Target::Ours(CA.to_owned()));
        if names_ca && !CA_IMPORTERS.contains(&found.folder.as_str()) {
            broken.push(format!(
                "{} -> {CA}: only {} may",
                found.folder,
                CA_IMPORTERS.join(", ")
            ));
        }
    }
    broken
}

/// Outside packages that crates do without and yet bring in, with the way by which they come.
pub fn without(house: &House) -> Vec<String> {
    let ours: BTreeMap<&str, Vec<&str>> = house
        .crates
        .iter()
        .map(|found| (found.folder.as_str(), normal_edges(found).map(|(_, to)| to).collect()))
        .collect();
    let mut below: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for package in &house.packages {
        for dependent in &package.dependents {
            below.entry(dependent).or_default().push(&package.name);
        }
    }
    let mut broken = Vec::new();
    for rule in WITHOUT {
        for found in &house.crates {
            let Some(way) = path(&ours, rule.from, &found.folder) else {
                continue;
            };
            for first in outside_edges(found) {
                let ways = rule.packages.iter().filter_map(|package| path(&below, first, package));
                broken.extend(ways.map(|rest| {
                    let whole = [way.as_slice(), rest.as_slice()].concat();
                    format!("{}: {}", whole.join(" -> "), rule.why)
                }));
            }
        }
    }
    broken
}

/// The shortest way from one crate to another along normal edges, both ends included.
fn path<'a>(edges: &BTreeMap<&'a str, Vec<&'a str>>, from: &'a str, to: &str) -> Option<Vec<&'a str>> {
    let mut seen = BTreeSet::from([from]);
    let mut ways = std::collections::VecDeque::from([vec![from]]);
    while let Some(way) = ways.pop_front() {
        let last = way.last().copied()?;
        if last == to {
            return Some(way);
        }
        for next in edges.get(last).into_iter().flatten() {
            if seen.insert(next) {
                let mut longer = way.clone();
                longer.push(next);
                ways.push_back(longer);
            }
        }
    }
    None
}

/// Outside crates imported away from their home.
pub fn homes(house: &House) -> Vec<String> {
    let mut broken = Vec::new();
    for home in HOMES {
        for found in &house.crates {
            let imports = found
                .edges
                .iter()
                .any(|edge| !edge.dev && edge.to == Target::Outside(home.package.to_owned()));
            if imports && !home.folders.contains(&found.folder.as_str()) {
                broken.push(format!("{} -> {}: {}", found.folder, home.package, home.why));
            }
        }
    }
    broken
}

/// The longest chain of normal edges between crates of ours when it is longer than wanted. xtask stands alone; tests
/// and benches import everything and are left out.
pub fn depth(house: &House) -> Vec<String> {
    let edges: BTreeMap<&str, Vec<&str>> = house
        .crates
        .iter()
        .filter(|found| !["tests", "benches"].contains(&found.folder.as_str()))
        .map(|found| (found.folder.as_str(), normal_edges(found).map(|(_, to)| to).collect()))
        .collect();
    let chains = edges.keys().map(|start| longest(&edges, start));
    chains
        .filter(|chain| chain.len() > DEPTH_MAX + 1)
        .map(|chain| format!("{} edges deep: {}", chain.len() - 1, chain.join(" -> ")))
        .collect()
}

/// Cargo refuses cycles, so this ends.
fn longest<'a>(edges: &BTreeMap<&'a str, Vec<&'a str>>, from: &'a str) -> Vec<&'a str> {
    let below = edges.get(from).into_iter().flatten().map(|next| longest(edges, next));
    let mut chain = vec![from];
    chain.extend(below.max_by_key(Vec::len).unwrap_or_default());
    chain
}

fn outside_edges(found: &Crate) -> impl Iterator<Item = &str> {
    found
        .edges
        .iter()
        .filter(|edge| !edge.dev)
        .filter_map(|edge| match &edge.to {
            Target::Outside(package) => Some(package.as_str()),
            Target::Ours(_) => None,
        })
}

fn normal_edges(found: &Crate) -> impl Iterator<Item = (&str, &str)> {
    found
        .edges
        .iter()
        .filter(|edge| !edge.dev)
        .filter_map(|edge| match &edge.to {
            Target::Ours(to) => Some((found.folder.as_str(), to.as_str())),
            Target::Outside(_) => None,
        })
}

/// Crates that do not forbid unsafe code, read from their manifests, and unsafe words in their sources.
pub fn unsafe_code(house: &House, tree: &[File]) -> Vec<String> {
    let text = |path: PathBuf| {
        tree.iter()
            .find(|file| file.path == path)
            .map_or("", |file| file.text.as_str())
    };
    let mut broken = Vec::new();
    if lint(
        text("Cargo.toml".into()),
        &["workspace", "lints", "rust", "unsafe_code"],
    )
    .as_deref()
        != Some("forbid")
    {
        broken.push("Cargo.toml: workspace.lints.rust.unsafe_code is not \"forbid\"".to_owned());
    }
    for found in house
        .crates
        .iter()
        .filter(|found| !UNSAFE_ALLOWED.contains(&found.folder.as_str()))
    {
        broken.extend(manifest_forbids(
            &found.folder,
            text(found.directory.join("Cargo.toml")),
        ));
        for file in tree
            .iter()
            .filter(|file| file.is_rust() && file.path.starts_with(&found.directory))
        {
            let lines = unsafe_lines(&file.text).into_iter();
            broken.extend(lines.map(|line| format!("{}:{line}: unsafe", file.path.display())));
        }
    }
    broken
}

/// The fault when a manifest does not take the workspace's lints.
pub fn manifest_forbids(folder: &str, manifest: &str) -> Option<String> {
    let inherits = manifest.parse::<toml::Table>().is_ok_and(|table| {
        table
            .get("lints")
            .and_then(|lints| lints.get("workspace"))
            .and_then(toml::Value::as_bool)
            == Some(true)
    });
    (!inherits).then(|| format!("{folder}: [lints] workspace = true is missing, so unsafe code is not forbidden"))
}

/// The numbers of the lines of code that use the keyword.
pub fn unsafe_lines(text: &str) -> Vec<usize> {
    let code = code::without_comments_and_strings(text);
    let word = |line: &str| {
        line.split(|letter: char| !letter.is_alphanumeric() && letter != '_')
            .any(|w| w == "unsafe")
    };
    code.lines()
        .enumerate()
        .filter(|(_, line)| word(line))
        .map(|(index, _)| index + 1)
        .collect()
}

fn lint(manifest: &str, keys: &[&str]) -> Option<String> {
    let table: toml::Table = manifest.parse().ok()?;
    let mut value = toml::Value::Table(table);
    for key in keys {
        value = value.get(key)?.clone();
    }
    value.as_str().map(str::to_owned)
}

#[cfg(test)]
#[path = "rules_tests.rs"]
mod tests;
