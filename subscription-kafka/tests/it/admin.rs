//! Topics are made as documented, and told apart from that.

use subscription_core::ErrorKind;
use subscription_kafka::{KafkaConfig, TopicAdmin, TopicSpec};

use crate::support::{runtime, shared, unique};

#[test]
fn a_topic_is_made_as_documented_and_stays_as_it_is() {
    let Some(broker) = shared() else { return };
    runtime().block_on(async {
        let config = KafkaConfig::new(broker.address(), unique("made")).unwrap();
        let admin = TopicAdmin::new(config.clone()).unwrap();
        let missing = admin.describe().await.expect_err("no topic yet");
        assert_eq!(missing.kind(), ErrorKind::NotFound);
        let help = missing.help().unwrap();
        assert!(help.contains("pipeline topic create") && help.contains(config.topic()), "{help}");

        let spec = TopicSpec::default().with_replication(1);
        admin.create(&spec).await.unwrap();
        let topic = admin.describe().await.unwrap();
        assert_eq!((topic.partitions, topic.replication), (64, 1));
        assert_eq!(topic.differences(&spec), []);
        assert_eq!(topic.config["message.timestamp.type"], "LogAppendTime");

        let again = admin.create(&spec).await.expect_err("it is there");
        assert_eq!(again.kind(), ErrorKind::Mismatch);
        for partitions in [8, 128] {
            let error = admin.create(&TopicSpec { partitions, ..spec.clone() }).await.expect_err("it is there");
            assert!(error.help().unwrap().contains("new topic"), "{error}: {:?}", error.help());
        }
        assert_eq!(admin.describe().await.unwrap().partitions, 64);
    });
}

#[test]
fn too_few_brokers_are_told() {
    let Some(broker) = shared() else { return };
    runtime().block_on(async {
        let admin = TopicAdmin::new(KafkaConfig::new(broker.address(), unique("copies")).unwrap()).unwrap();
        let error = admin.create(&TopicSpec::default()).await.expect_err("three copies on one broker");
        assert_eq!(error.kind(), ErrorKind::Configuration);
        assert!(error.help().unwrap().contains("--replication"), "{error}");
        let error = admin.create(&TopicSpec { partitions: 0, ..TopicSpec::default() }).await.expect_err("none");
        assert_eq!(error.kind(), ErrorKind::Configuration);
    });
}
