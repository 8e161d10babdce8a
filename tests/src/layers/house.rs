//! The workspace as cargo sees it: our crates with their declared edges, and every resolved package.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use cargo_metadata::{DependencyKind, MetadataCommand};
use semver::Version;

/// Prefix of every package of ours.
const PREFIX: &str = "mintage-";

/// Everything the checks read.
#[derive(Clone, Debug, Default)]
pub struct House {
    /// Our crates.
    pub crates: Vec<Crate>,
    /// Every package of the resolved graph, ours included.
    pub packages: Vec<Package>,
}

/// One crate of ours.
#[derive(Clone, Debug, Default)]
pub struct Crate {
    /// The folder's name; the package is `mintage-<folder>`.
    pub folder: String,
    /// The folder of its `Cargo.toml`, from the workspace root.
    pub directory: PathBuf,
    /// Its declared dependencies, by package name; those of ours by folder.
    pub edges: Vec<Edge>,
}

/// One declared dependency.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edge {
    /// What is imported.
    pub to: Target,
    /// Whether it is a development dependency; build dependencies count as normal ones.
    pub dev: bool,
}

/// What an edge leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A crate of ours, by folder.
    Ours(String),
    /// A package from outside, by name.
    Outside(String),
}

/// One resolved package.
#[derive(Clone, Debug)]
pub struct Package {
    /// Its name in the registry.
    pub name: String,
    /// Its resolved version.
    pub version: Version,
    /// The licence expression of its manifest.
    pub license: Option<String>,
    /// Where it comes from; none for a path.
    pub source: Option<String>,
    /// The names of the packages that depend on it directly.
    pub dependents: BTreeSet<String>,
}

/// Reads the workspace at `root` through `cargo metadata`, for all platforms and with `Cargo.lock` as it stands.
///
/// # Errors
///
/// What cargo said.
pub fn read(root: &Path) -> Result<House, String> {
    let metadata = MetadataCommand::new()
        .manifest_path(root.join("Cargo.toml"))
        .other_options(vec!["--locked".to_owned(), "--all-features".to_owned()])
        .exec()
        .map_err(|error| error.to_string())?;
    let resolve = metadata.resolve.as_ref().ok_or("cargo metadata gave no graph")?;
    let names: BTreeMap<_, _> = metadata
        .packages
        .iter()
        .map(|package| (&package.id, package.name.as_str()))
        .collect();
    let mut dependents: BTreeMap<_, BTreeSet<String>> = BTreeMap::new();
    for node in &resolve.nodes {
        let name = names.get(&node.id).copied().unwrap_or_default();
        for dependency in &node.dependencies {
            dependents.entry(dependency).or_default().insert(name.to_owned());
        }
    }
    let mut house = House::default();
    for package in &metadata.packages {
        house.packages.push(Package {
            name: package.name.to_string(),
            version: package.version.clone(),
            license: package.license.clone(),
            source: package.source.as_ref().map(ToString::to_string),
            dependents: dependents.get(&package.id).cloned().unwrap_or_default(),
        });
        if !metadata.workspace_members.contains(&package.id) {
            continue;
        }
        let folder = package.manifest_path.parent();
        let directory = folder.and_then(|path| path.strip_prefix(&metadata.workspace_root).ok());
        let directory = directory.map(Into::into).unwrap_or_default();
        let edges = package.dependencies.iter().map(|dependency| Edge {
            to: target(&dependency.name, dependency.path.is_some()),
            dev: dependency.kind == DependencyKind::Development,
        });
        let folder = package.name.strip_prefix(PREFIX).unwrap_or(&package.name).to_owned();
        house.crates.push(Crate {
            folder,
            directory,
            edges: edges.collect(),
        });
    }
    Ok(house)
}

fn target(name: &str, is_path: bool) -> Target {
    match name.strip_prefix(PREFIX) {
        Some(folder) if is_path => Target::Ours(folder.to_owned()),
        _ => Target::Outside(name.to_owned()),
    }
}

/// The folder that holds the workspace's `Cargo.toml`.
pub fn workspace_root() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own).to_path_buf()
}
