//! Pages.

use crate::on_both;

on_both!(every_item_is_on_exactly_one_page, tokens_and_sizes);

mod run {
    use tonic::Code;
    use vda_proto::v1;

    use crate::bed::{Bed, GIB, MIB, da};

    pub(super) async fn every_item_is_on_exactly_one_page(bed: Bed) {
        bed.cluster(5, GIB).await;
        bed.add_cn("cn1:9820", 0).await.unwrap();
        for n in 0..5 {
            bed.add_pd(&format!("dn{n}:9720"), "pd1", GIB).await.unwrap();
        }
        for n in 0..7 {
            bed.create_da(da(&format!("da{n}"), 4 * MIB, 1)).await.unwrap();
            for exp in 0..n % 2 {
                bed.add_exp(
                    &format!("da{n}"),
                    &format!("exp{exp}"),
                    &format!("nqn.2024-01.com.example:{exp}"),
                )
                .await
                .unwrap();
            }
        }
        for page_size in [1, 2, 3, 5, 100] {
            assert_eq!(dns(&bed, page_size).await, (0..5).map(|n| format!("dn{n}:9720")).collect::<Vec<_>>());
            assert_eq!(pds(&bed, page_size, "").await.len(), 10);
            assert_eq!(pds(&bed, page_size, "").await[3], "dn1:9720/pd1");
            assert_eq!(pds(&bed, page_size, "dn3:9720").await, ["dn3:9720/pd0", "dn3:9720/pd1"]);
            assert_eq!(das(&bed, page_size).await, (0..7).map(|n| format!("da{n}")).collect::<Vec<_>>());
            let all = ["da1/exp0", "da3/exp0", "da5/exp0"];
            assert_eq!(exps(&bed, page_size, "").await, all);
            assert_eq!(exps(&bed, page_size, "da5").await, ["da5/exp0"]);
        }
        let cns = bed.client().list_cn(v1::ListCnRequest::default()).await.unwrap().into_inner();
        assert_eq!((cns.cns.len(), cns.next_page_token.as_str()), (2, ""));
    }

    async fn dns(bed: &Bed, page_size: u32) -> Vec<String> {
        let (mut found, mut page_token) = (Vec::new(), String::new());
        loop {
            let reply =
                bed.client().list_dn(v1::ListDnRequest { page_size, page_token }).await.unwrap().into_inner();
            assert!(reply.dns.len() <= page_size as usize);
            found.extend(reply.dns.into_iter().map(|d| d.spec.unwrap().address));
            page_token = reply.next_page_token;
            if page_token.is_empty() {
                return found;
            }
        }
    }

    async fn pds(bed: &Bed, page_size: u32, dn_address: &str) -> Vec<String> {
        let (mut found, mut page_token) = (Vec::new(), String::new());
        loop {
            let request = v1::ListPdRequest { dn_address: dn_address.into(), page_size, page_token };
            let reply = bed.client().list_pd(request).await.unwrap().into_inner();
            assert!(reply.pds.len() <= page_size as usize);
            found.extend(
                reply.pds.into_iter().map(|p| format!("{}/{}", p.dn_address, p.spec.unwrap().pd_name)),
            );
            page_token = reply.next_page_token;
            if page_token.is_empty() {
                return found;
            }
        }
    }

    async fn das(bed: &Bed, page_size: u32) -> Vec<String> {
        let (mut found, mut page_token) = (Vec::new(), String::new());
        loop {
            let reply =
                bed.client().list_da(v1::ListDaRequest { page_size, page_token }).await.unwrap().into_inner();
            assert!(reply.das.len() <= page_size as usize);
            found.extend(reply.das.into_iter().map(|d| d.spec.unwrap().da_name));
            page_token = reply.next_page_token;
            if page_token.is_empty() {
                return found;
            }
        }
    }

    async fn exps(bed: &Bed, page_size: u32, da_name: &str) -> Vec<String> {
        let (mut found, mut page_token) = (Vec::new(), String::new());
        loop {
            let request = v1::ListExpRequest { da_name: da_name.into(), page_size, page_token };
            let reply = bed.client().list_exp(request).await.unwrap().into_inner();
            assert!(reply.exps.len() <= page_size as usize);
            found.extend(
                reply.exps.into_iter().map(|e| format!("{}/{}", e.da_name, e.spec.unwrap().exp_name)),
            );
            page_token = reply.next_page_token;
            if page_token.is_empty() {
                return found;
            }
        }
    }

    pub(super) async fn tokens_and_sizes(bed: Bed) {
        bed.cluster(3, GIB).await;
        let request = v1::ListDnRequest { page_size: 1, page_token: String::new() };
        let token = bed.client().list_dn(request).await.unwrap().into_inner().next_page_token;
        assert!(!token.is_empty());
        for bad in [
            v1::ListCnRequest { page_size: 0, page_token: token },
            v1::ListCnRequest { page_size: 0, page_token: "garbage".into() },
            v1::ListCnRequest { page_size: 1001, page_token: String::new() },
        ] {
            assert_eq!(bed.client().list_cn(bad).await.unwrap_err().code(), Code::InvalidArgument);
        }
        let empty = bed.client().list_da(v1::ListDaRequest::default()).await.unwrap().into_inner();
        assert_eq!((empty.das.len(), empty.next_page_token.as_str()), (0, ""));
    }
}
