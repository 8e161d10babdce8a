//! What operators change: entries, agents, join tokens; and what they look at. Only the admin socket reaches this.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use mintage_attest::{JoinToken, join_token::TokenHash};
use mintage_identity::{AgentName, CertHash, EntryName, RevocationReason, Selector, SpiffeId};
use mintage_ledger::{
    Body, LiveQuery,
    wire::{CaEventKind, CaRole},
};
use mintage_policy::explain;
use mintage_proto::v1::{self, registry_server::Registry};
use mintage_state::{
    CaKeyRecord, TokenId, TokenRecord, View,
    command::{create_token, delete_token, evict_agent, token_by_prefix},
};
use tonic::{Request, Response, Status};
use zeroize::Zeroizing;

use crate::{
    ca_status,
    control::{Origin, command},
    convert::wire_entry,
    desk::Desk,
    entries,
    init::cert_hash,
    listing::wire_agent,
    revoke::{carry_out, of_agent},
    services::{page, revocation::renew_message},
    status::Refusal,
};

/// Lifetime of a join token that was given none.
const TOKEN_TTL_DEFAULT: Duration = Duration::from_secs(600);

pub(crate) struct RegistryService(pub(crate) Arc<Desk>);

fn agent_name(text: &str) -> Result<AgentName, Refusal> {
    AgentName::parse(text).map_err(|error| Refusal::invalid(error.to_string()))
}

fn entry_name(text: &str) -> Result<EntryName, Refusal> {
    EntryName::parse(text).map_err(|error| Refusal::invalid(error.to_string()))
}

/// An id an agent pattern or filter names: an agent's name or a whole SPIFFE ID.
fn agent_id(desk: &Desk, text: &str) -> Result<SpiffeId, Refusal> {
    match text.starts_with("spiffe://") {
        true => SpiffeId::parse(text).map_err(|error| Refusal::invalid(error.to_string())),
        false => Ok(SpiffeId::agent(&desk.domain, &agent_name(text)?)),
    }
}

fn wire_token(id: &TokenId, token: &TokenRecord) -> v1::Token {
    v1::Token {
        id: id.to_string()[..16].to_owned(),
        agent: token.agent.to_string(),
        created_ms: token.created_at.millis(),
        expires_ms: token.expires.millis(),
        used: token.bound.is_some(),
    }
}

/// The roots that a join token pins: those of the bundle, and every root that is active or prepared. A token made just
/// before a new root comes into use must still open the door just after.
fn pins(view: &View) -> Vec<CertHash> {
    let standing = |key: &&CaKeyRecord| {
        key.role == CaRole::Root
            && matches!(key.stage, CaEventKind::Prepare | CaEventKind::Activate)
            && !key.certificate_der.is_empty()
    };
    let bundle = view.bundle().into_iter().flat_map(|bundle| &bundle.roots_der);
    let keys = view.ca_keys().filter(standing).map(|key| &key.certificate_der);
    let mut pins = Vec::new();
    for hash in bundle.chain(keys).map(|der| cert_hash(der)) {
        if !pins.contains(&hash) {
            pins.push(hash);
        }
    }
    pins
}

impl RegistryService {
    fn agent(&self, view: &View, name: &AgentName) -> Result<v1::Agent, Refusal> {
        let agent = view
            .agent(name)
            .ok_or_else(|| Refusal::not_found(format!("there is no agent {name}")))?;
        Ok(wire_agent(&self.0, agent))
    }

    /// Draws a secret and records its hash; the whole token is made here and forgotten with the reply.
    async fn make_token(
        &self,
        origin: &Origin,
        request: v1::CreateTokenRequest,
    ) -> Result<v1::CreateTokenResponse, Refusal> {
        let desk = &self.0;
        let agent = agent_name(&request.agent)?;
        let life = match u64::try_from(request.ttl_seconds) {
            Ok(0) => TOKEN_TTL_DEFAULT,
            Ok(seconds) => Duration::from_secs(seconds),
            Err(_) => {
                let text = format!(
                    "ttl_seconds is {}; a token cannot have expired already",
                    request.ttl_seconds
                );
                return Err(Refusal::invalid(text));
            }
        };
        let secret: Zeroizing<[u8; 32]> = Zeroizing::new(desk.random()?);
        let id = TokenId::new(*TokenHash::of_presented(&secret[..]).as_bytes());
        let view = desk.state.view();
        let token = JoinToken::new(desk.advertise.clone(), pins(&view), desk.domain.clone(), secret)?;
        let draft = |view: &View| {
            let now = desk.clock.now()?;
            Ok((vec![create_token(view, id, &agent, life, None, now)?], now.plus(life)))
        };
        let (expires, index) = match request.dry_run {
            true => (draft(&view)?.1, None),
            false => command(desk, origin, draft).await?,
        };
        let shown = if request.dry_run {
            String::new()
        } else {
            token.encode().to_string()
        };
        let id = id.to_string()[..16].to_owned();
        Ok(v1::CreateTokenResponse {
            token: shown,
            id,
            expires_ms: expires.millis(),
            index: index.unwrap_or(0),
        })
    }
}

#[tonic::async_trait]
impl Registry for RegistryService {
    async fn apply_entries(
        &self,
        request: Request<v1::ApplyEntriesRequest>,
    ) -> Result<Response<v1::ApplyEntriesResponse>, Status> {
        let origin = Origin::of(&request)?;
        Ok(Response::new(
            entries::apply(&self.0, &origin, request.into_inner()).await?,
        ))
    }

    async fn list_entries(
        &self,
        request: Request<v1::ListEntriesRequest>,
    ) -> Result<Response<v1::ListEntriesResponse>, Status> {
        let request = request.into_inner();
        let agent = (!request.agent.is_empty())
            .then(|| agent_id(&self.0, &request.agent))
            .transpose()?;
        let view = self.0.state.view();
        let wanted = view.entries().filter(|standing| {
            let entry = &standing.entry;
            (request.spiffe_id.is_empty() || entry.spiffe_id().as_str() == request.spiffe_id)
                && agent.as_ref().is_none_or(|agent| entry.is_for_agent(agent))
        });
        let (rows, next) = page::cut(wanted, |row| row.entry.name().to_string(), request.page.as_ref());
        let entries = rows
            .into_iter()
            .map(|row| wire_entry(&row.entry, row.revision))
            .collect();
        Ok(Response::new(v1::ListEntriesResponse { entries, next }))
    }

    async fn show_entry(
        &self,
        request: Request<v1::ShowEntryRequest>,
    ) -> Result<Response<v1::ShowEntryResponse>, Status> {
        let name = entry_name(&request.into_inner().name)?;
        let view = self.0.state.view();
        let standing = view
            .entry(&name)
            .ok_or_else(|| Refusal::not_found(format!("there is no entry {name}")))?;
        let query = LiveQuery {
            entry: Some(name.to_string()),
            ..LiveQuery::default()
        };
        let live_certificates = self.0.index.live_count_shown(&query, self.0.clock.unguarded());
        let entry = Some(wire_entry(&standing.entry, standing.revision));
        Ok(Response::new(v1::ShowEntryResponse {
            entry,
            live_certificates,
        }))
    }

    async fn delete_entry(
        &self,
        request: Request<v1::DeleteEntryRequest>,
    ) -> Result<Response<v1::DeleteEntryResponse>, Status> {
        let origin = Origin::of(&request)?;
        let request = request.into_inner();
        let name = entry_name(&request.name)?;
        Ok(Response::new(
            entries::delete(&self.0, &origin, &name, request.dry_run).await?,
        ))
    }

    async fn explain_entries(
        &self,
        request: Request<v1::ExplainEntriesRequest>,
    ) -> Result<Response<v1::ExplainEntriesResponse>, Status> {
        let request = request.into_inner();
        let agent = agent_id(&self.0, &request.agent)?;
        let selectors = request
            .selectors
            .iter()
            .map(|text| Selector::parse(text))
            .collect::<Result<BTreeSet<_>, _>>();
        let selectors = selectors.map_err(|error| Refusal::invalid(error.to_string()))?;
        let view = self.0.state.view();
        let explanations = explain(
            view.entries().map(|standing| (&*standing.entry, standing.revision)),
            &agent,
            &selectors,
        );
        let explanations = explanations.into_iter().map(crate::listing::wire_explanation).collect();
        Ok(Response::new(v1::ExplainEntriesResponse { explanations }))
    }

    async fn list_agents(
        &self,
        request: Request<v1::ListAgentsRequest>,
    ) -> Result<Response<v1::ListAgentsResponse>, Status> {
        let request = request.into_inner();
        let view = self.0.state.view();
        let (rows, next) = page::cut(view.agents(), |agent| agent.name.to_string(), request.page.as_ref());
        let agents = rows.into_iter().map(|agent| wire_agent(&self.0, agent)).collect();
        Ok(Response::new(v1::ListAgentsResponse { agents, next }))
    }

    async fn show_agent(
        &self,
        request: Request<v1::ShowAgentRequest>,
    ) -> Result<Response<v1::ShowAgentResponse>, Status> {
        let name = agent_name(&request.into_inner().name)?;
        let view = self.0.state.view();
        let agent = self.agent(&view, &name)?;
        let id = SpiffeId::agent(&self.0.domain, &name);
        let entries = view
            .entries_for_agent(&id)
            .into_iter()
            .map(|row| wire_entry(&row.entry, row.revision))
            .collect();
        Ok(Response::new(v1::ShowAgentResponse {
            agent: Some(agent),
            entries,
        }))
    }

    async fn ban_agent(&self, request: Request<v1::BanAgentRequest>) -> Result<Response<v1::BanAgentResponse>, Status> {
        let origin = Origin::of(&request)?;
        let request = request.into_inner();
        let name = agent_name(&request.name)?;
        let before = self.agent(&self.0.state.view(), &name)?;
        let order = of_agent(&name, RevocationReason::PrivilegeWithdrawn, &request.reason);
        let (struck, index) = carry_out(&self.0, &origin, &order, request.dry_run).await?;
        let agent = self.agent(&self.0.state.view(), &name).unwrap_or(before);
        let revoked_certificates = struck.certificates;
        Ok(Response::new(v1::BanAgentResponse {
            agent: Some(agent),
            index,
            revoked_certificates,
        }))
    }

    async fn evict_agent(
        &self,
        request: Request<v1::EvictAgentRequest>,
    ) -> Result<Response<v1::EvictAgentResponse>, Status> {
        let origin = Origin::of(&request)?;
        let request = request.into_inner();
        let name = agent_name(&request.name)?;
        let draft = |view: &View| {
            let body = evict_agent(view, &name, None, &request.reason)?;
            Ok((body.into_iter().collect::<Vec<Body>>(), ()))
        };
        let index = match request.dry_run {
            true => draft(&self.0.state.view()).map(|_| None)?,
            false => command(&self.0, &origin, draft).await?.1,
        };
        let agent = Some(self.agent(&self.0.state.view(), &name)?);
        Ok(Response::new(v1::EvictAgentResponse {
            agent,
            index: index.unwrap_or(0),
        }))
    }

    async fn renew_agent(
        &self,
        request: Request<v1::RenewAgentRequest>,
    ) -> Result<Response<v1::RenewAgentResponse>, Status> {
        let request = request.into_inner();
        let name = agent_name(&request.name)?;
        self.agent(&self.0.state.view(), &name)?;
        let entries = request
            .entries
            .iter()
            .map(|entry| entry_name(entry))
            .collect::<Result<Vec<_>, _>>()?;
        if request.dry_run {
            let streams = u32::from(self.0.fleet.connected(&name).is_some());
            return Ok(Response::new(v1::RenewAgentResponse { streams }));
        }
        let entries = entries.iter().map(ToString::to_string).collect();
        let streams = self
            .0
            .fleet
            .push_to(&name, &renew_message(entries, request.agent, "asked by an operator"));
        if streams == 0 {
            return Err(Refusal::unavailable("not-connected", format!("agent {name} has no open stream")).into());
        }
        Ok(Response::new(v1::RenewAgentResponse { streams }))
    }

    async fn create_token(
        &self,
        request: Request<v1::CreateTokenRequest>,
    ) -> Result<Response<v1::CreateTokenResponse>, Status> {
        let origin = Origin::of(&request)?;
        Ok(Response::new(self.make_token(&origin, request.into_inner()).await?))
    }

    async fn list_tokens(
        &self,
        request: Request<v1::ListTokensRequest>,
    ) -> Result<Response<v1::ListTokensResponse>, Status> {
        let request = request.into_inner();
        let view = self.0.state.view();
        let (rows, next) = page::cut(view.tokens(), |(id, _)| id.to_string(), request.page.as_ref());
        let tokens = rows.into_iter().map(|(id, token)| wire_token(id, token)).collect();
        Ok(Response::new(v1::ListTokensResponse { tokens, next }))
    }

    async fn delete_token(
        &self,
        request: Request<v1::DeleteTokenRequest>,
    ) -> Result<Response<v1::DeleteTokenResponse>, Status> {
        let origin = Origin::of(&request)?;
        let request = request.into_inner();
        let draft = |view: &View| {
            let id = token_by_prefix(view, &request.id)?;
            let token = view.token(&id).map(|token| wire_token(&id, token));
            Ok((vec![delete_token(view, &id)?], token))
        };
        let (token, index) = match request.dry_run {
            true => (draft(&self.0.state.view())?.1, None),
            false => command(&self.0, &origin, draft).await?,
        };
        Ok(Response::new(v1::DeleteTokenResponse {
            token,
            index: index.unwrap_or(0),
        }))
    }

    async fn ca_status(&self, _: Request<v1::CaStatusRequest>) -> Result<Response<v1::CaStatusResponse>, Status> {
        Ok(Response::new(ca_status::response(&self.0)))
    }
}
