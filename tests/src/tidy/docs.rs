//! Markdown: links that lead somewhere, and a code map that names every room.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use super::tree::File;

/// Links in one Markdown file that lead to no file, no folder or no heading of the tree.
pub fn dead_links(file: &File, tree: &[File]) -> Vec<String> {
    let mut dead = Vec::new();
    for (number, target) in links(&file.text) {
        if target.contains("://") || target.starts_with("mailto:") {
            continue;
        }
        let (path, anchor) = target.split_once('#').unwrap_or((&target, ""));
        let folder = file.path.parent().unwrap_or(Path::new(""));
        let wanted = if path.is_empty() {
            Some(file.path.clone())
        } else {
            normal(&folder.join(path))
        };
        let found = wanted
            .as_ref()
            .is_some_and(|wanted| tree.iter().any(|other| other.path.starts_with(wanted)));
        let heading = anchor.is_empty()
            || tree
                .iter()
                .any(|other| Some(&other.path) == wanted.as_ref() && anchors(&other.text).contains(anchor));
        if !found || !heading {
            dead.push(format!(
                "{}:{number}: link to {target} leads nowhere",
                file.path.display()
            ));
        }
    }
    dead
}

/// Every link target outside code, with its line number.
fn links(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (number, line) in prose(text) {
        let mut rest = line.as_str();
        while let Some((_, after)) = rest.split_once("](") {
            let Some((target, tail)) = after.split_once(')') else {
                break;
            };
            let target = target.split_whitespace().next().unwrap_or_default();
            found.push((number, target.trim_matches(['<', '>']).to_owned()));
            rest = tail;
        }
        // The reference form: `[name]: target`.
        if line.starts_with('[')
            && let Some((_, target)) = line.split_once("]: ")
        {
            found.push((number, target.split_whitespace().next().unwrap_or_default().to_owned()));
        }
    }
    found
}

/// Lines outside fenced blocks, with code spans blanked.
fn prose(text: &str) -> Vec<(usize, String)> {
    let mut fenced = false;
    let mut lines = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            let spans = line
                .split('`')
                .enumerate()
                .map(|(part, words)| if part % 2 == 0 { words } else { "" });
            lines.push((index + 1, spans.collect()));
        }
    }
    lines
}

/// The anchors that headings make: lower case, spaces as hyphens, punctuation dropped.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut fenced = false;
    let mut found = BTreeSet::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        let heading = line.trim_start_matches('#');
        if fenced || heading.len() == line.len() || !heading.starts_with(' ') {
            continue;
        }
        let letters = heading.trim().to_lowercase();
        let kept = letters
            .chars()
            .filter(|letter| letter.is_alphanumeric() || matches!(letter, ' ' | '-' | '_'));
        found.insert(kept.map(|letter| if letter == ' ' { '-' } else { letter }).collect());
    }
    found
}

/// The path without `.` and `..`; none when it leaves the tree.
fn normal(path: &Path) -> Option<PathBuf> {
    let mut parts: Vec<Component<'_>> = Vec::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                parts.pop()?;
            }
            Component::Normal(_) => parts.push(part),
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(parts.iter().collect())
}

/// Crate folders that the code map does not name as `` `crates/<folder>` ``, `` `<folder>` `` or a table cell.
pub fn unmapped(readme: &str, folders: &BTreeSet<String>) -> Vec<String> {
    let named = |folder: &String| {
        [
            format!("`crates/{folder}`"),
            format!("`crates/{folder}/`"),
            format!("`{folder}`"),
            format!("| {folder} |"),
        ]
        .iter()
        .chain([&format!("](crates/{folder})"), &format!("](crates/{folder}/)")])
        .any(|form| readme.contains(form.as_str()))
    };
    folders
        .iter()
        .filter(|folder| !named(folder))
        .map(|folder| format!("README.md does not name crates/{folder}"))
        .collect()
}

/// Files beside a folder's README.md that it does not link.
pub fn unlisted(folder: &Path, tree: &[File]) -> Vec<String> {
    let readme = tree.iter().find(|file| file.path == folder.join("README.md"));
    let linked: BTreeSet<String> = readme
        .iter()
        .flat_map(|file| links(&file.text))
        .map(|(_, target)| target)
        .collect();
    let inside = tree
        .iter()
        .filter_map(|file| file.path.strip_prefix(folder).ok()?.to_str());
    inside
        .filter(|name| *name != "README.md" && !linked.contains(*name))
        .map(|name| format!("{}/README.md does not link {name}", folder.display()))
        .collect()
}

/// The folders that hold a crate.
pub fn crate_folders(tree: &[File]) -> BTreeSet<String> {
    let manifests = tree.iter().filter_map(|file| {
        file.path
            .strip_prefix("crates")
            .ok()?
            .to_str()?
            .strip_suffix("/Cargo.toml")
    });
    manifests.map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dead(text: &str) -> usize {
        let tree = [
            File::new("docs/a.md", text),
            File::new("docs/b.md", "# One two, three\n```\n# not a heading\n```\n"),
            File::new("crates/svid/src/lib.rs", ""),
        ];
        dead_links(&tree[0], &tree).len()
    }

    #[test]
    fn links_that_lead_somewhere_are_left_alone() {
        for good in [
            "b.md",
            "./b.md#one-two-three",
            "../crates/svid",
            "../crates/svid/src/lib.rs",
            "https://x.example/y",
        ] {
            assert_eq!(dead(&format!("see [it]({good}) and `[code](none.md)`")), 0, "{good}");
        }
        assert_eq!(dead("# Here\n[up](#here)\n```\n[x](none.md)\n```\n[r]: b.md\n"), 0);
    }

    #[test]
    fn dead_links_are_found() {
        for bad in [
            "c.md",
            "b.md#four",
            "../../b.md",
            "/b.md",
            "#nowhere",
            "b.md#not-a-heading",
            "crates/svid",
        ] {
            assert_eq!(dead(&format!("see [it]({bad})")), 1, "{bad}");
        }
        assert_eq!(dead("[a](b.md) [b](c.md)\n\n[r]: d.md\n"), 2);
    }

    #[test]
    fn a_file_its_folder_does_not_list_is_found() {
        let tree = [
            File::new("deploy/README.md", "[ca](ca.toml) and `b.toml`"),
            File::new("deploy/ca.toml", ""),
            File::new("deploy/b.toml", ""),
            File::new("deploy/k8s/c.yaml", ""),
            File::new("other.toml", ""),
        ];
        let found = unlisted(Path::new("deploy"), &tree);
        assert_eq!(
            found,
            [
                "deploy/README.md does not link b.toml",
                "deploy/README.md does not link k8s/c.yaml"
            ]
        );
        assert_eq!(
            unlisted(Path::new("deploy"), &tree[1..2]).len(),
            1,
            "without a README nothing is linked"
        );
    }

    #[test]
    fn a_room_the_map_does_not_name_is_found() {
        let folders = crate_folders(&[
            File::new("crates/svid/Cargo.toml", ""),
            File::new("crates/sys/Cargo.toml", ""),
            File::new("crates/svid/src/lib.rs", ""),
            File::new("tests/Cargo.toml", ""),
        ]);
        assert_eq!(
            unmapped("| `svid` | documents |", &folders),
            ["README.md does not name crates/sys"]
        );
        assert!(unmapped("`crates/svid` and | sys |", &folders).is_empty());
    }
}
