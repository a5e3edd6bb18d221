//! What an agent tells, of either kind of node.

use vda_model::ids::DaId;
use vda_proto::v1::{CnObservation, CnStatus, CntlrStatus, DnObservation, DnStatus, ShareStatus};

/// One message of an Observe stream.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Report {
    /// The last message of the list of everything.
    pub(crate) complete: bool,
    /// Highest generation accepted; 0 in a heartbeat.
    pub(crate) generation: u64,
    pub(crate) node: Option<NodeStatus>,
    pub(crate) components: Vec<(DaId, ComponentStatus)>,
}

/// State of a node.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum NodeStatus {
    Dn(DnStatus),
    Cn(CnStatus),
}

/// State of a component.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum ComponentStatus {
    Share(ShareStatus),
    Cntlr(CntlrStatus),
}

fn component(id: &str, status: ComponentStatus) -> Option<(DaId, ComponentStatus)> {
    match id.parse() {
        Ok(da) => Some((da, status)),
        Err(error) => {
            tracing::warn!(%error, "an agent reports a component with an id that is none; ignored");
            None
        }
    }
}

impl From<DnObservation> for Report {
    fn from(message: DnObservation) -> Self {
        let shares = message.shares.into_iter();
        Self {
            complete: message.complete,
            generation: message.generation,
            node: message.node.map(NodeStatus::Dn),
            components: shares
                .filter_map(|s| component(&s.da_id.clone(), ComponentStatus::Share(s)))
                .collect(),
        }
    }
}

impl From<CnObservation> for Report {
    fn from(message: CnObservation) -> Self {
        let cntlrs = message.cntlrs.into_iter();
        Self {
            complete: message.complete,
            generation: message.generation,
            node: message.node.map(NodeStatus::Cn),
            components: cntlrs
                .filter_map(|s| component(&s.da_id.clone(), ComponentStatus::Cntlr(s)))
                .collect(),
        }
    }
}
