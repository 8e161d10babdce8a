//! Builds a view out of the objects in the store.

use mintage_identity::TrustDomain;
use mintage_revocation::SetHash;

use crate::key::Key;
use crate::stored;
use crate::view::View;

/// Builds the view of `applied` records from the store's objects, in the order of their names. The sum over what was
/// read is made anew; the caller compares it with the one that was stored.
///
/// # Errors
/// The first object that cannot be read, as a word for the log.
pub(crate) fn view_of<N, V>(
    domain: &TrustDomain,
    (applied, control_head): (u64, u64),
    objects: impl IntoIterator<Item = (N, V)>,
) -> Result<View, &'static str>
where
    N: AsRef<[u8]>,
    V: AsRef<[u8]>,
{
    let mut view = View::new(domain);
    let mut base = None;
    for (name, value) in objects {
        let (name, value) = (name.as_ref(), value.as_ref());
        let key = Key::from_bytes(name).ok_or("an object of an unknown name")?;
        match key {
            Key::Base => base = Some(stored::base(value)?),
            Key::Fold(index) if base.is_some_and(|(sequence, _)| index > sequence) => {
                resume(&mut view, base.take())?;
                place(&mut view, &key, value)?;
            }
            _ => place(&mut view, &key, value)?,
        }
        view.sum.add(name, value);
    }
    resume(&mut view, base)?;
    view.applied = applied;
    view.control_head = control_head;
    Ok(view)
}

/// Puts the revoked set where the folds led, of which those that came so far are left.
fn resume(view: &mut View, base: Option<(u64, SetHash)>) -> Result<(), &'static str> {
    let Some((sequence, hash)) = base else { return Ok(()) };
    let resumed = view.revoked.resume_at(sequence, hash);
    resumed.map_err(|_| "a place that lies before its folds")
}

fn place(view: &mut View, key: &Key, value: &[u8]) -> Result<(), &'static str> {
    let differs = "an object that is stored under another's name";
    match key {
        Key::Entry(name) => {
            let standing = stored::entry(value, &view.domain)?;
            (standing.entry.name() == name).then_some(()).ok_or(differs)?;
            view.entries.insert(standing);
        }
        Key::Agent(name) => {
            let agent = stored::agent(value)?;
            (agent.name == *name).then_some(()).ok_or(differs)?;
            view.agents.insert(name.clone(), agent);
        }
        Key::Token(id) => _ = view.tokens.insert(*id, stored::token(value)?),
        Key::Ca(role, id) => {
            let key = stored::ca_key(value)?;
            (key.key_id == *id && key.role as i32 == *role)
                .then_some(())
                .ok_or(differs)?;
            view.ca_keys.insert((*role, *id), key);
        }
        Key::Bundle => view.bundle = Some(stored::bundle(value)?.into()),
        Key::Federated(domain) => {
            let federated = stored::federated(value)?;
            (federated.domain == *domain).then_some(()).ok_or(differs)?;
            view.federated.insert(domain.clone(), federated.into());
        }
        // Looked at by the caller, who knows what comes after it.
        Key::Base => {}
        // The names are big-endian, so folds come in the order of the ledger.
        Key::Fold(index) => view
            .refold(*index, &stored::fold(value)?)
            .map_err(|_| "a fold that does not fit")?,
    }
    Ok(())
}
