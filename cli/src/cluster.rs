//! `vdacli cluster`.

use clap::Subcommand;
use vda_proto::v1::{ClusterSummary, GetClusterSummaryRequest, cluster_summary::Nodes};

use crate::{
    cell,
    failure::Failure,
    output::Human,
    session::Session,
    table::{Column, col},
};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show what there is, what is free, and what is not as it should be
    Summary,
}

impl Command {
    pub(crate) async fn run(self, session: &Session) -> Result<(), Failure> {
        match self {
            Self::Summary => {
                let mut portal = session.portal();
                let call = portal.get_cluster_summary(GetClusterSummaryRequest {});
                let summary = session.read("cluster", call).await?;
                session.output.message(&summary, |human| text(&summary, human))
            }
        }
    }
}

const NODE_COLUMNS: &[Column<(&str, Nodes)>] = &[
    col("KIND", |(kind, _)| (*kind).into()),
    col("TOTAL", |(_, nodes)| nodes.total.into()),
    col("READY", |(_, nodes)| nodes.ready.into()),
    col("NOT READY", |(_, nodes)| nodes.not_ready.into()),
    col("OFFLINE", |(_, nodes)| nodes.offline.into()),
];

const CLUSTER_COLUMNS: &[Column<ClusterSummary>] = &[
    col("DAS", |summary| summary.das.into()),
    col("EXPS", |summary| summary.exps.into()),
    col("FREE", |summary| cell::size(summary.total_bytes.saturating_sub(summary.used_bytes)).into()),
    col("TOTAL", |summary| cell::size(summary.total_bytes).into()),
    col("BEING DELETED", |summary| summary.deleting.into()),
    col("MONITORS", |summary| summary.monitors.into()),
];

const PROBLEM_COLUMNS: &[Column<String>] = &[col("PROBLEM", |problem| problem.into())];

fn text(summary: &ClusterSummary, human: Human) -> String {
    let nodes = [("dn", summary.dns), ("pd", summary.pds), ("cn", summary.cns)]
        .map(|(kind, nodes)| (kind, nodes.unwrap_or_default()));
    human.table(NODE_COLUMNS, &nodes)
        + &human.also(CLUSTER_COLUMNS, std::slice::from_ref(summary))
        + &human.also(PROBLEM_COLUMNS, &summary.problems)
}
