//! Many at once, and not enough room.

use crate::on_both;

on_both!(
    /// 64 concurrent creates that together exceed the capacity.
    concurrent_creates,
    concurrent_creates_through_two_portals,
    concurrent_mirrored_creates_through_four_portals,
    concurrent_mirrored_creates_on_unlike_disks,
    concurrent_creates_and_deletes,
    controllers_run_out,
    an_array_of_64_virtual_disks,
);

mod run {
    use futures::future::join_all;
    use tonic::Code;
    use vda_model::keys::{DaKey, DnCapacityKey};

    use crate::bed::{Bed, GIB, MIB, da};

    /// 64 MiB volumes take 68 MiB of a PD; the 1020 MiB of one hold 15 of them.
    const PER_PD: usize = 15;

    /// Asks for more than there is, through all these portals at once; `full` are the disks on each PD at the end.
    async fn exceed(bed: &Bed, portals: &[&Bed], replicas: u32, fit: usize, full: &[u32]) {
        let creates =
            (0..64).map(|n| portals[n % portals.len()].create_da(da(&format!("da{n}"), 64 * MIB, replicas)));
        let results = join_all(creates).await;
        for refused in results.iter().filter_map(|r| r.as_ref().err()) {
            assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
        }
        assert_eq!(results.iter().filter(|r| r.is_ok()).count(), fit, "exactly what fits");
        let snapshot = bed.assert_clean().await;
        assert_eq!(snapshot.all::<DaKey>().count(), fit);
        let live: Vec<u32> = snapshot.all::<DnCapacityKey>().map(|(_, c)| c.value.pds[0].live_vds).collect();
        if !full.is_empty() {
            assert_eq!(live, full, "every PD is full");
        }
    }

    pub(super) async fn concurrent_creates(bed: Bed) {
        bed.cluster(4, GIB).await;
        exceed(&bed, &[&bed], 2, 4 * PER_PD / 2, &[15; 4]).await;
    }

    pub(super) async fn concurrent_creates_through_two_portals(bed: Bed) {
        bed.cluster(4, GIB).await;
        let other = bed.another().await;
        exceed(&bed, &[&bed, &other], 1, 4 * PER_PD, &[15; 4]).await;
    }

    /// Portals that know little of each other must not leave the last places of mirrors on one PD.
    pub(super) async fn concurrent_mirrored_creates_through_four_portals(bed: Bed) {
        bed.cluster(4, GIB).await;
        let others = [bed.another().await, bed.another().await, bed.another().await];
        let portals: Vec<&Bed> = std::iter::once(&bed).chain(&others).collect();
        exceed(&bed, &portals, 2, 4 * PER_PD / 2, &[15; 4]).await;
    }

    /// Each mirror needs the large disk: by free share alone the small ones would be filled with each other.
    pub(super) async fn concurrent_mirrored_creates_on_unlike_disks(bed: Bed) {
        for (dn, size) in [("dn0:9720", 2 * GIB), ("dn1:9720", GIB), ("dn2:9720", GIB)] {
            bed.add_dn(dn, "").await.unwrap();
            bed.add_pd(dn, "pd0", size).await.unwrap();
        }
        bed.add_cn("cn0:9820", 100).await.unwrap();
        bed.report().await;
        let other = bed.another().await;
        exceed(&bed, &[&bed, &other], 2, 2 * PER_PD, &[]).await;
    }

    pub(super) async fn concurrent_creates_and_deletes(bed: Bed) {
        bed.cluster(3, GIB).await;
        let cycles = (0..24).map(|n| {
            let bed = &bed;
            async move {
                let name = format!("da{n}");
                for _ in 0..3 {
                    match bed.create_da(da(&name, 64 * MIB, 1 + n % 3)).await {
                        Ok(_) => _ = bed.delete_da(&name).await.unwrap(),
                        Err(full) => assert_eq!(full.code(), Code::ResourceExhausted, "{full:?}"),
                    }
                }
            }
        });
        join_all(cycles).await;
        bed.assert_clean().await;
        bed.finish().await;
        let snapshot = bed.assert_clean().await;
        let used: u64 = snapshot.all::<DnCapacityKey>().map(|(_, c)| c.value.pds[0].used_bytes).sum();
        assert_eq!((used, snapshot.all::<DaKey>().count()), (0, 0));
    }

    pub(super) async fn controllers_run_out(bed: Bed) {
        bed.add_dn("dn0:9720", "").await.unwrap();
        bed.add_pd("dn0:9720", "pd0", 4 * GIB).await.unwrap();
        bed.add_cn("cn0:9820", 5).await.unwrap();
        bed.report().await;
        let results = join_all((0..16).map(|n| bed.create_da(da(&format!("da{n}"), 64 * MIB, 1)))).await;
        assert_eq!(results.iter().filter(|r| r.is_ok()).count(), 5);
        let refused = results.into_iter().find_map(Result::err).unwrap();
        assert!(refused.message().contains("CN cn0:9820: has 5 of 5 controllers"), "{refused:?}");
        bed.assert_clean().await;
    }

    pub(super) async fn an_array_of_64_virtual_disks(bed: Bed) {
        bed.cluster(50, GIB).await;
        let request = vda_proto::v1::CreateDaRequest { stripes: 32, ..da("da0", GIB, 2) };
        let da = bed.create_da(request).await.unwrap().spec.unwrap();
        let vds: usize = da.legs[0].groups[0].sets.iter().map(|s| s.members.len()).sum();
        assert_eq!(vds, 64);
        bed.assert_clean().await;
        bed.delete_da("da0").await.unwrap();
        bed.finish().await;
        bed.assert_clean().await;
    }
}
