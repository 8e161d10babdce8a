//! Reading a policy file, line by line (C2SP tlog-policy, policy file syntax and structure).

use super::{Group, Member, Policy, PolicyWitness};
use crate::{
    CosignerKey, LedgerError,
    limits::{POLICY_BYTES_MAX, POLICY_GROUPS_MAX, POLICY_WITNESSES_MAX},
};

impl Policy {
    /// Reads a policy file. It may list no log, for who knows the log from elsewhere.
    ///
    /// # Errors
    /// Refuses what C2SP tlog-policy does, and more than 256 logs or 63 witnesses or groups; names the line.
    pub fn parse(bytes: &[u8]) -> Result<Self, LedgerError> {
        if bytes.len() > POLICY_BYTES_MAX {
            return Err(LedgerError::format(
                "policy",
                format!("has {} bytes, the limit is {POLICY_BYTES_MAX}", bytes.len()),
            ));
        }
        let mut reading = Reading {
            policy: Self::empty(),
            names: Vec::new(),
            quorum_seen: false,
        };
        let mut number = 0;
        for line in bytes.split(|octet| *octet == b'\n') {
            number += 1;
            reading
                .line(line)
                .map_err(|problem| LedgerError::format("policy", format!("line {number}: {problem}")))?;
        }
        match reading.quorum_seen {
            true => Ok(reading.policy),
            false => Err(LedgerError::format(
                "policy",
                format!("line {number}: the file ends without a quorum line"),
            )),
        }
    }
}

/// A policy as far as it was read. Names are octets, not text (C2SP tlog-policy, character set).
struct Reading {
    policy: Policy,
    names: Vec<(Vec<u8>, Member)>,
    quorum_seen: bool,
}

impl Reading {
    fn line(&mut self, line: &[u8]) -> Result<(), String> {
        if let Some(octet) = line.iter().find(|octet| !matches!(octet, b'\t' | 0x20..=0x7e | 0x80..)) {
            return Err(format!("has the control character 0x{octet:02x}"));
        }
        let mut words = line
            .split(|octet| matches!(octet, b' ' | b'\t'))
            .filter(|word| !word.is_empty());
        match words.next() {
            None => Ok(()),
            Some(word) if word.starts_with(b"#") => Ok(()),
            Some(b"log") => {
                let (vkey, url) = (words.next().ok_or("names no key")?, words.next());
                self.policy.add_log(parsed(vkey)?, url.map(text))?;
                ended(words.next())
            }
            Some(b"witness") => {
                let name = words.next().ok_or("names no witness")?;
                let (key, url) = (words.next().ok_or("names no key")?, words.next());
                ended(words.next())?;
                self.witness(name, parsed(key)?, url.map(text))
            }
            Some(b"group") => {
                let name = words.next().ok_or("names no group")?;
                let needed = words.next().ok_or("says not how many members are needed")?;
                self.group(name, needed, words)
            }
            Some(b"quorum") => {
                let name = words.next().ok_or("names no witness, group or none")?;
                ended(words.next())?;
                self.quorum(name)
            }
            Some(word) => Err(format!("{:?} is none of log, witness, group and quorum", text(word))),
        }
    }

    fn witness(&mut self, name: &[u8], key: CosignerKey, url: Option<String>) -> Result<(), String> {
        let known = &mut self.policy.witnesses;
        if known.iter().any(|other| other.key.public_key() == key.public_key()) {
            return Err(format!("the key of {:?} is listed twice", key.name()));
        }
        if known.len() >= POLICY_WITNESSES_MAX {
            return Err(format!("has over {POLICY_WITNESSES_MAX} witnesses"));
        }
        let member = Member::Witness(known.len());
        known.push(PolicyWitness {
            name: text(name),
            key,
            url,
        });
        self.define(name, member)
    }

    fn group<'a>(&mut self, name: &[u8], needed: &[u8], names: impl Iterator<Item = &'a [u8]>) -> Result<(), String> {
        let mut members: Vec<Member> = Vec::new();
        for member in names {
            let member_id = self.find(member)?;
            if members.contains(&member_id) {
                return Err(format!("lists {:?} twice", text(member)));
            }
            members.push(member_id);
        }
        let needed = match needed {
            b"any" => 1,
            b"all" => members.len(),
            digits => decimal(digits).ok_or("says neither any, all nor a number of members")?,
        };
        if needed == 0 || needed > members.len() {
            return Err(format!("needs {needed} of {} members", members.len()));
        }
        let at = self.policy.groups.len();
        if at >= POLICY_GROUPS_MAX {
            return Err(format!("has over {POLICY_GROUPS_MAX} groups"));
        }
        self.policy.groups.push(Group { needed, members });
        self.define(name, Member::Group(at))
    }

    fn quorum(&mut self, name: &[u8]) -> Result<(), String> {
        if std::mem::replace(&mut self.quorum_seen, true) {
            return Err("a quorum is named twice".into());
        }
        self.policy.quorum = match name {
            b"none" => None,
            name => Some(self.find(name)?),
        };
        Ok(())
    }

    fn define(&mut self, name: &[u8], member: Member) -> Result<(), String> {
        if name == b"none" {
            return Err("the name none has a meaning of its own".into());
        }
        if self.names.iter().any(|(known, _)| known == name) {
            return Err(format!("the name {:?} is given twice", text(name)));
        }
        self.names.push((name.to_vec(), member));
        Ok(())
    }

    fn find(&self, name: &[u8]) -> Result<Member, String> {
        let found = self.names.iter().find(|(known, _)| known == name);
        let member = found.map(|(_, member)| *member);
        member.ok_or_else(|| format!("{:?} is named on no line before", text(name)))
    }
}

fn text(octets: &[u8]) -> String {
    String::from_utf8_lossy(octets).into_owned()
}

fn parsed<K: std::str::FromStr<Err = LedgerError>>(octets: &[u8]) -> Result<K, String> {
    let text = std::str::from_utf8(octets).map_err(|_| "has a key that is not UTF-8")?;
    text.parse().map_err(|error: LedgerError| error.to_string())
}

fn ended(word: Option<&[u8]>) -> Result<(), String> {
    match word {
        None => Ok(()),
        Some(word) => Err(format!("goes on with {:?}", text(word))),
    }
}

fn decimal(digits: &[u8]) -> Option<usize> {
    let plain = digits.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(digits).ok().filter(|_| plain)?;
    text.parse().ok()
}
