//! More is asked for than there is, by many at once.

use futures::future::join_all;
use tonic::Code;
use vda_integration::{Cluster, da_request};
use vda_proto::v1::{DeleteDaRequest, ListPdRequest, Pd, resource_ref::Kind};

use crate::CLEAN_UP;

async fn pds(cluster: &Cluster) -> anyhow::Result<Vec<Pd>> {
    Ok(cluster.portal(0)?.list_pd(ListPdRequest::default()).await?.into_inner().pds)
}

#[tokio::test]
async fn exactly_what_fits_succeeds_and_the_books_balance() -> anyhow::Result<()> {
    const MIB: u64 = 24;
    let cluster = Cluster::builder().start().await?;
    cluster.add_nodes().await?;
    let names: Vec<_> = (0..64).map(|n| format!("da{n}")).collect();
    let portal = cluster.portal(0)?;
    let create = |name: &String| {
        let (mut portal, request) = (portal.clone(), da_request(name, MIB, 1, 1));
        async move { portal.create_da(request).await }
    };
    let answers = join_all(names.iter().map(create)).await;
    let mut created = Vec::new();
    for (name, answer) in names.iter().zip(answers) {
        match answer {
            Ok(da) => created.push((name, da.into_inner().spec.unwrap_or_default().physical_size_bytes)),
            Err(status) => assert_eq!(status.code(), Code::ResourceExhausted, "{name}: {status}"),
        }
    }
    let vd = created.first().expect("some fit").1;
    assert!(vd >= MIB << 20 && created.iter().all(|(_, physical)| *physical == vd));
    let pds = pds(&cluster).await?;
    let capacity = |pd: &Pd| pd.capacity.clone().unwrap_or_default();
    let fit: u64 = pds.iter().map(|pd| capacity(pd).total_bytes / vd).sum();
    assert_eq!(created.len() as u64, fit, "of {pds:#?}");
    assert!((1..64).contains(&created.len()), "the test asks for more than there is");
    for pd in &pds {
        let books = capacity(pd);
        assert_eq!(books.used_bytes, u64::from(books.live_vds) * vd);
        assert!(books.used_bytes <= books.total_bytes);
    }
    for (name, _) in &created {
        cluster.ready(Kind::Da, name).await?;
    }
    let delete = |name: &String| {
        let (mut portal, request) =
            (portal.clone(), DeleteDaRequest { da_name: name.clone(), ..Default::default() });
        async move { portal.delete_da(request).await }
    };
    for answer in join_all(created.iter().map(|(name, _)| delete(name))).await {
        answer?;
    }
    cluster.nothing_left(true, CLEAN_UP).await?;
    for pd in self::pds(&cluster).await? {
        let books = capacity(&pd);
        assert_eq!((books.used_bytes, books.live_vds, books.deleting_vds), (0, 0, 0), "{pd:?}");
    }
    cluster.end().await
}
