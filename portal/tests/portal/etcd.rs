//! etcd away, at start and in the middle; the services beside the portal's own.

use std::time::Duration;

use tonic::Code;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use vda_model::keys::DaKey;
use vda_proto::v1;

use crate::bed::{Bed, Etcd, GIB, MIB, da};

async fn health(bed: &Bed) -> ServingStatus {
    let request = HealthCheckRequest { service: "vda.v1.Portal".into() };
    HealthClient::new(bed.channel.clone()).check(request).await.unwrap().into_inner().status()
}

async fn until(bed: &Bed, wanted: ServingStatus) {
    let reached = async {
        while health(bed).await != wanted {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), reached).await.expect("health follows etcd");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_comes_up_after_the_portal() {
    let site = Etcd::reserve();
    let bed = Bed::with_etcd_at(&site.client.address()).await;
    let refused = bed.client().list_da(v1::ListDaRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(refused.message().starts_with("etcd does not answer"), "{refused:?}");
    let refused = bed.add_dn("dn0:9720", "").await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
    assert_eq!(health(&bed).await, ServingStatus::NotServing);
    let _etcd = Etcd::start(site);
    until(&bed, ServingStatus::Serving).await;
    bed.cluster(1, GIB).await;
    bed.create_da(da("da0", 64 * MIB, 1)).await.unwrap();
    bed.assert_clean().await;
}

/// Writers go on while etcd is killed and started again: what was answered OK is there, nothing is doubled, and all go on by themselves.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn etcd_is_lost_in_mid_run() {
    let mut bed = Bed::on_etcd().await;
    bed.cluster(2, 8 * GIB).await;
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let writers: Vec<_> = (0..4)
        .map(|w| {
            let (mut client, stopped) = (bed.client(), stopped.clone());
            tokio::spawn(async move {
                let (mut made, mut unknown) = (Vec::new(), 0);
                for n in 0.. {
                    if *stopped.borrow() {
                        break;
                    }
                    let name = format!("da{w}-{n}");
                    match client.create_da(da(&name, 4 * MIB, 2)).await {
                        Ok(_) => made.push(name),
                        Err(e) if e.code() == Code::Unavailable => {
                            unknown += 1;
                            tokio::time::sleep(Duration::from_millis(20)).await;
                        }
                        Err(e) => panic!("{e:?}"),
                    }
                }
                (made, unknown)
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(500)).await;
    bed.etcd.as_mut().unwrap().kill();
    until(&bed, ServingStatus::NotServing).await;
    bed.etcd.as_mut().unwrap().restart();
    until(&bed, ServingStatus::Serving).await;
    bed.create_da(da("after", 4 * MIB, 2)).await.unwrap();
    stop.send(true).unwrap();
    let (mut wanted, mut maybe) = (Vec::new(), 0);
    for writer in writers {
        let (made, unknown) = writer.await.unwrap();
        wanted.extend(made);
        maybe += unknown;
    }
    let snapshot = bed.assert_clean().await;
    for name in &wanted {
        assert!(snapshot.get(&DaKey(name.clone())).is_some(), "{name} was answered and is lost");
    }
    let there = snapshot.all::<DaKey>().count();
    assert!((wanted.len() + 1..=wanted.len() + 1 + maybe).contains(&there), "{there} arrays");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reflection_names_the_services() {
    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    };
    let bed = Bed::in_memory().await;
    until(&bed, ServingStatus::Serving).await;
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let replies = ServerReflectionClient::new(bed.channel.clone())
        .server_reflection_info(tokio_stream::once(request))
        .await;
    let reply = replies.unwrap().into_inner().message().await.unwrap().unwrap();
    let Some(MessageResponse::ListServicesResponse(list)) = reply.message_response else { panic!("no list") };
    let names: Vec<_> = list.service.into_iter().map(|s| s.name).collect();
    assert!(
        names.contains(&"vda.v1.Portal".to_owned()) && names.contains(&"grpc.health.v1.Health".to_owned()),
        "{names:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn request_ids_come_back() {
    let bed = Bed::in_memory().await;
    let mut request = tonic::Request::new(v1::ListDaRequest::default());
    request.metadata_mut().insert("x-request-id", "trace-7".parse().unwrap());
    let reply = bed.client().list_da(request).await.unwrap();
    assert_eq!(reply.metadata().get("x-request-id").unwrap(), "trace-7");
}
