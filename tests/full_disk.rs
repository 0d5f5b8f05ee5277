//! A full disk: nothing is acknowledged, nothing is lost, and the program goes on by itself once there is room.

use reqwest::{Client, StatusCode};

use crate::support::configuration;
use crate::support::marketplace::Marketplace;
use crate::support::process::{Process, doorbell};
use crate::support::receiver::{json, notify, token};
use crate::support::shim::shim;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_disk_is_full_nothing_is_acknowledged_and_afterwards_it_goes_on_without_a_restart() {
    let directory = tempfile::tempdir().expect("a directory");
    let Some(shim) = shim(directory.path()).filter(|_| cfg!(target_os = "linux")) else {
        eprintln!("skipped: the disk is made to look full on Linux with a C compiler only");
        return;
    };
    let marketplace = Marketplace::start().await;
    let (data, full, file) =
        (directory.path().join("data"), directory.path().join("full"), directory.path().join("doorbell.toml"));
    std::fs::write(&file, configuration(&marketplace.base_url, &format!("sled:{}", data.display()))).expect("written");
    let text = |path: &std::path::Path| path.to_str().expect("UTF-8").to_owned();
    let variables = [
        ("LD_PRELOAD", text(&shim)),
        ("POWER_DIRECTORY", text(&data)),
        ("POWER_RECORD", text(&directory.path().join("record"))),
        ("POWER_FULL", text(&full)),
    ];
    let variables = variables.each_ref().map(|(name, value)| (*name, value.as_str()));
    let process = Process::serve(&doorbell(), &file, &variables);
    let client = Client::new();
    let bearer = token(&client, &process.public, "marketplace", "outbound-secret").await;
    let ring = async |id: &str| {
        let url = format!("{}/api/integration/v1/events/{id}", marketplace.base_url);
        notify(&client, &process.public, &bearer, "/create", &url).await
    };
    let ready = async || client.get(format!("{}/health/ready", process.public)).send().await.expect("answers").status();

    for id in ["before", "during", "after"] {
        marketplace.order(id);
    }
    assert_eq!(ring("before").await.status(), StatusCode::ACCEPTED);
    marketplace.until_settled("before").await;

    for _ in 0..2 {
        std::fs::write(&full, "").expect("full");
        for _ in 0..3 {
            let answer = ring("during").await;
            assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
            assert!(answer.headers().contains_key("retry-after"));
            assert_eq!(json(answer).await["errorCode"], "TRANSPORT_ERROR");
        }
        assert_eq!(ready().await, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(marketplace.seen("during").reads, 0);

        std::fs::remove_file(&full).expect("room");
        let recovered = async {
            while ready().await != StatusCode::OK {
                tokio::task::yield_now().await;
            }
        };
        let recovered = tokio::time::timeout(crate::support::PATIENCE, recovered).await;
        if recovered.is_err() {
            let said = process.terminate().1.into_iter().filter(|line| !line.contains("not ready"));
            panic!("it does not come back: {:#?}", said.collect::<Vec<_>>());
        }
    }
    for id in ["during", "after"] {
        assert_eq!(ring(id).await.status(), StatusCode::ACCEPTED);
        marketplace.until_settled(id).await;
    }
    assert_eq!(ring("before").await.status(), StatusCode::OK, "it is known");
    for id in ["before", "during", "after"] {
        assert_eq!((marketplace.seen(id).reads, marketplace.seen(id).taken.len()), (1, 1), "{id}");
    }
}
