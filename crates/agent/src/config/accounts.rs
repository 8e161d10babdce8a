//! User and group names as the node's own files define them. Names are for the reader of a configuration; what counts
//! afterwards is the number. Directory services are not asked: a name they alone know is written as its number.

use std::{collections::HashMap, path::Path};

/// Names and numbers of users and groups.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Accounts {
    /// Name to number and primary group.
    users: HashMap<String, (u32, u32)>,
    groups: HashMap<String, u32>,
}

impl Accounts {
    /// Reads `/etc/passwd` and `/etc/group`; a missing file knows no names.
    pub fn of_system() -> Self {
        let read = |path: &str| std::fs::read_to_string(Path::new(path)).unwrap_or_default();
        Self::parse(&read("/etc/passwd"), &read("/etc/group"))
    }

    /// Reads passwd(5) and group(5) text; lines that are not of the form are passed over.
    pub fn parse(passwd: &str, group: &str) -> Self {
        let mut accounts = Self::default();
        for line in passwd.lines() {
            let fields: Vec<&str> = line.split(':').collect();
            if let [name, _, uid, gid, ..] = fields[..]
                && let (Ok(uid), Ok(gid)) = (uid.parse(), gid.parse())
            {
                accounts.users.entry(name.to_owned()).or_insert((uid, gid));
            }
        }
        for line in group.lines() {
            let fields: Vec<&str> = line.split(':').collect();
            if let [name, _, gid, ..] = fields[..]
                && let Ok(gid) = gid.parse()
            {
                accounts.groups.entry(name.to_owned()).or_insert(gid);
            }
        }
        accounts
    }

    /// A user's number and, when it is known, its primary group.
    pub(crate) fn user(&self, text: &str) -> Result<(u32, Option<u32>), String> {
        if let Some(&(uid, gid)) = self.users.get(text) {
            return Ok((uid, Some(gid)));
        }
        let uid = number(text).ok_or_else(|| format!("user {text:?} is not in /etc/passwd; write its number"))?;
        let gid = self.users.values().find(|(u, _)| *u == uid).map(|(_, gid)| *gid);
        Ok((uid, gid))
    }

    /// A group's number.
    pub(crate) fn group(&self, text: &str) -> Result<u32, String> {
        match self.groups.get(text) {
            Some(&gid) => Ok(gid),
            None => number(text).ok_or_else(|| format!("group {text:?} is not in /etc/group; write its number")),
        }
    }
}

/// A number that chown(2) does not read as "leave it".
fn number(text: &str) -> Option<u32> {
    text.parse().ok().filter(|&number| number != u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_resolve_and_strangers_are_refused() {
        let accounts = Accounts::parse(
            "root:x:0:0::/root:/bin/sh\nbroken\nweb:x:33:34::/:/bin/false\nweb:x:99:99:::\n",
            "tls:x:500:web\nbad:x:notanumber:\n",
        );
        assert_eq!(accounts.user("web"), Ok((33, Some(34))));
        assert_eq!(accounts.user("33"), Ok((33, Some(34))));
        assert_eq!(accounts.user("4000"), Ok((4000, None)));
        assert_eq!(accounts.group("tls"), Ok(500));
        assert!(accounts.user("nobody-here").unwrap_err().contains("/etc/passwd"));
        assert!(accounts.group("bad").is_err());
        assert!(
            accounts.user("4294967295").is_err(),
            "chown would read it as 'leave the owner'"
        );
    }
}
