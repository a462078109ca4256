//! The stream on Kafka where it is its own: the topic, the fence, what stands in the way, and what others read.

use crate::stream_conformance::{Place as _, Topic, all, change, marker, pair_of, replaced, start_ms, up_to};
use crate::support::{Kafka, Raw, eventually, eventually_is, never};
use keepstep::codec;
use keepstep::stream::kafka::{KafkaOpener, KafkaStream, Settings};
use keepstep::stream::{Stream, StreamError};
use std::sync::Arc;
use std::time::Duration;

/// How long something may take that a live broker does at once.
const SOON: Duration = Duration::from_secs(20);

async fn refusal(settings: &Settings) -> String {
    match KafkaOpener::new(settings.clone()).open().await {
        Err(StreamError::Refused(why)) => why,
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("it was opened"),
    }
}

fn put(pair: u64, value: &str) -> Arc<Vec<keepstep::change::Change>> {
    Arc::new(vec![change(pair, start_ms(), Some(value.as_bytes()))])
}

async fn values(stream: &dyn Stream) -> Vec<String> {
    let records = all(stream, 100).await;
    let text = |value: Option<Vec<u8>>| value.map_or_else(|| "-".to_owned(), |value| String::from_utf8(value).unwrap());
    records.into_iter().map(|record| text(record.change.after)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_is_created_as_the_stream_needs_it() {
    let kafka = Kafka::shared().await;
    let mut place = Topic::on(kafka);
    place.settings.age = Duration::from_secs(3600);
    place.settings.replication = Some(1);
    assert!(KafkaStream::open_read_only(place.settings.clone()).await.unwrap().is_none(), "reading creates nothing");
    drop(place.owner().await);
    let topic = &place.settings.topic;
    assert_eq!(kafka.partitions(topic).await, 1);
    for (name, expected) in
        [("cleanup.policy", "compact"), ("min.compaction.lag.ms", "3600000"), ("max.message.bytes", "3145728")]
    {
        assert_eq!(kafka.topic_config(topic, name).await.as_deref(), Some(expected), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_beside_owners_shuts_none_out_and_is_shut_out_by_none() {
    let place = Topic::on(Kafka::shared().await);
    let first = place.owner().await;
    let command = place.open_to_keep().await;
    first.append(put(1, "one")).await.unwrap();
    command.record_replaced(vec![replaced("beside the first")]).await.unwrap();
    first.append(put(1, "two")).await.unwrap();
    let second = place.owner().await;
    command.record_replaced(vec![replaced("beside the second")]).await.unwrap();
    second.append(put(1, "three")).await.unwrap();
    assert!(matches!(first.append(put(1, "late")).await, Err(StreamError::Lost(_))));
    let expected = ["one", "beside the first", "two", "beside the second", "three"];
    let reader = KafkaStream::open_read_only(place.settings.clone()).await.unwrap().unwrap();
    let is_change = |value: &String| value != "-";
    for stream in [&second, &reader] {
        let read: Vec<String> = values(stream).await.into_iter().filter(is_change).collect();
        assert_eq!(read, expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_no_stream_is_refused_and_told_how_to_become_one() {
    let kafka = Kafka::shared().await;
    let place = Topic::on(kafka);
    kafka.create_topic(&place.settings.topic, 3, &[("cleanup.policy", "compact")]).await;
    let why = refusal(&place.settings).await;
    assert!(why.contains("has 3 partitions") && why.contains("stream.kafka.topic"), "{why}");
    let read = KafkaStream::open_read_only(place.settings.clone()).await;
    assert!(matches!(read, Err(StreamError::Refused(_))));

    let place = Topic::on(kafka);
    kafka.create_topic(&place.settings.topic, 1, &[]).await;
    let why = refusal(&place.settings).await;
    assert!(why.contains("cleanup.policy=delete") && why.contains("kafka-configs.sh"), "{why}");
    assert_eq!(
        kafka.topic_config(&place.settings.topic, "cleanup.policy").await.as_deref(),
        Some("delete"),
        "untouched"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_lies_in_the_topic_can_be_read_and_filtered_without_keepstep() {
    let place = Topic::new().await;
    let stream = place.owner().await;
    let start = start_ms();
    let batch = vec![change(1, start, Some(b"v1")), change(2, start, None), marker(start)];
    let first = stream.append(Arc::new(batch.clone())).await.unwrap();
    let records = Kafka::shared().await.records(&place.settings.topic).await;
    let [owner, update, delete, gap, tombstone] = records.as_slice() else { panic!("{records:#?}") };
    let header = |record: &Raw, name: &str| record.headers.get(&format!("keepstep.{name}")).cloned().unwrap();
    for (record, key, op, route) in [
        (owner, r#"{"marker":"owner"}"#, "m", ""),
        (update, r#"{"zookeeper":"/p/1","redis":"p:1"}"#, "u", "settings"),
        (delete, r#"{"zookeeper":"/p/2","redis":"p:2"}"#, "d", "settings"),
        (gap, r#"{"marker":"gap"}"#, "m", "settings"),
        (tombstone, r#"{"zookeeper":"/p/2","redis":"p:2"}"#, "d", "settings"),
    ] {
        assert_eq!(String::from_utf8_lossy(&record.key), key);
        assert_eq!((header(record, "op"), header(record, "route")), (op.to_owned(), route.to_owned()), "{key}");
        assert_eq!(header(record, "pipeline"), place.settings.pipeline);
        assert_eq!(header(record, "fence"), "1.1");
    }
    assert_eq!(tombstone.value, None);
    assert_eq!(first, u64::try_from(update.offset).unwrap() + 1, "position is offset + 1");
    for (raw, written) in [(update, &batch[0]), (delete, &batch[1]), (gap, &batch[2])] {
        assert_eq!(codec::decode(raw.value.as_deref().unwrap()).as_ref(), Ok(written));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pair_that_comes_back_within_one_append_gets_no_tombstone() {
    let place = Topic::new().await;
    let stream = place.owner().await;
    let start = start_ms();
    stream.append(Arc::new(vec![change(1, start, None), change(1, start, Some(b"again"))])).await.unwrap();
    let records = Kafka::shared().await.records(&place.settings.topic).await;
    assert!(records.iter().all(|record| record.value.is_some()), "{records:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_of_another_pipeline_is_refused_by_name() {
    let place = Topic::new().await;
    drop(place.owner().await);
    let mut second = place.settings.clone();
    second.pipeline = "second".to_owned();
    let why = refusal(&second).await;
    assert!(why.contains(&format!("holds records of pipeline `{}`", place.settings.pipeline)), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_cannot_be_read_is_told_with_its_position_and_the_others_flow() {
    let kafka = Kafka::shared().await;
    let place = Topic::on(kafka);
    let stream = place.owner().await;
    stream.append(put(1, "one")).await.unwrap();
    kafka.produce(&place.settings.topic, b"k", Some(b"not avro"), &[]).await;
    kafka.produce(&place.settings.topic, b"k", Some(&[0, 0, 0, 0, 7, 1, 2]), &[]).await;
    // What stands between our records is read when the next one is placed.
    let position = stream.append(put(2, "two")).await.unwrap();
    let batch = stream.read(1, 100, usize::MAX).await.unwrap();
    assert_eq!(batch.records.len(), 2);
    let [garbage, registry] = batch.damaged.as_slice() else { panic!("{:?}", batch.damaged) };
    assert!(garbage.contains(&format!("position {}", position - 2)) && garbage.contains("not an Avro"), "{garbage}");
    assert!(registry.contains("schema 7") && registry.contains("schema_registry"), "{registry}");
    drop(stream);
    assert!(place.owner().await.knows(&pair_of(2)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_owner_writes_that_was_shut_out_is_read_by_nobody() {
    let place = Topic::new().await;
    let former = place.owner().await;
    former.append(put(1, "valid")).await.unwrap();
    former.append(put(2, "valid")).await.unwrap();
    let owner = place.owner().await;
    // It was frozen, and wakes up: Kafka takes its records.
    let late = former.append(put(1, "too late")).await;
    assert!(matches!(late, Err(StreamError::Lost(_))), "{late:?}");
    assert!(matches!(former.append(put(3, "too late")).await, Err(StreamError::Lost(_))));
    let lost = tokio::time::timeout(SOON, former.lost()).await.unwrap();
    assert!(lost.to_string().contains("another owner (epoch 2)"), "{lost}");

    owner.append(put(2, "new")).await.unwrap();
    assert!(!owner.knows(&pair_of(3)));
    // Compaction keeps the last record of a key: the pair's valid one stands behind the late one now.
    let expected = ["valid", "valid", "new", "valid"];
    assert_eq!(values(&owner).await, expected);
    let reader = KafkaStream::open_read_only(place.settings.clone()).await.unwrap().unwrap();
    assert_eq!(values(&reader).await, expected);
    let records = Kafka::shared().await.records(&place.settings.topic).await;
    let raw = |value: &[u8]| {
        let holds = |raw: &Raw| raw.value.as_ref().is_some_and(|held| held.windows(value.len()).any(|at| at == value));
        records.iter().rposition(holds)
    };
    assert!(raw(b"valid") > raw(b"too late") && raw(b"too late").is_some(), "{records:#?}");

    // A reader that begins behind the late record, and an owner after this one, see the same.
    let next = place.owner().await;
    assert_eq!(values(&next).await, expected, "a third ownership records nothing");
    assert!(next.latest(&pair_of(1)).unwrap().unwrap().after.is(Some(b"valid")));
    let from = owner.extent().last;
    let tail = reader.read(from, 100, usize::MAX).await.unwrap();
    assert_eq!(tail.records.len(), 1, "{tail:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_is_idle_learns_of_a_newer_one() {
    let place = Topic::new().await;
    let former = place.owner().await;
    let _owner = place.owner().await;
    let lost = tokio::time::timeout(SOON, former.lost()).await.unwrap();
    assert!(lost.to_string().contains("epoch 2"), "{lost}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_is_too_large_is_named_and_nothing_of_its_append_is_recorded() {
    let kafka = Kafka::shared().await;
    let place = Topic::on(kafka);
    let config = [("cleanup.policy", "compact"), ("max.message.bytes", "20000")];
    kafka.create_topic(&place.settings.topic, 1, &config).await;
    let stream = place.owner().await;
    let large = vec![b'x'; 30_000];
    let batch = vec![change(1, start_ms(), Some(b"fits")), change(2, start_ms(), Some(&large))];
    match stream.append(Arc::new(batch)).await {
        Err(StreamError::TooLarge { index: 1, text }) => assert!(text.contains("takes 20000"), "{text}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(values(&stream).await, Vec::<String>::new());
    stream.append(put(1, "fits")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_deleted_is_lost_loudly_and_begun_anew() {
    let kafka = Kafka::shared().await;
    let place = Topic::on(kafka);
    let stream = place.owner().await;
    stream.append(put(1, "one")).await.unwrap();
    stream.append(put(1, "one more")).await.unwrap();
    stream.append(put(1, "and one more")).await.unwrap();
    let reader = KafkaStream::open_read_only(place.settings.clone()).await.unwrap().unwrap();
    let end = reader.extent().last;
    kafka.delete_topic(&place.settings.topic).await;
    let lost = tokio::time::timeout(SOON, stream.lost()).await.unwrap();
    assert!(lost.to_string().contains("history is lost"), "{lost}");
    assert!(matches!(stream.append(put(1, "two")).await, Err(StreamError::Lost(_))));
    let anew = eventually("it is begun anew", SOON, async || {
        KafkaOpener::new(place.settings.clone()).open().await.map_err(|error| error.to_string())
    })
    .await;
    anew.begin(9, up_to(9)).await.unwrap();
    assert!(!anew.knows(&pair_of(1)));
    anew.append(put(1, "again")).await.unwrap();
    assert_eq!(values(&anew).await, ["again"]);
    // The new topic is shorter: whoever follows is told, and does not wait for ever.
    tokio::time::timeout(SOON, reader.wait_after(end)).await.unwrap();
    let read = reader.read(end, 10, usize::MAX).await;
    assert!(matches!(read, Err(StreamError::Lost(_))), "{read:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_truncated_is_lost_and_what_is_left_of_it_is_known() {
    let kafka = Kafka::shared().await;
    let place = Topic::on(kafka);
    let stream = place.owner().await;
    stream.append(put(1, "one")).await.unwrap();
    let second = stream.append(put(2, "two")).await.unwrap();
    // Of a topic that is only compacted nobody can delete records; an operator may have changed that.
    kafka.configure(&place.settings.topic, &[("cleanup.policy", "compact,delete")]).await;
    kafka.delete_records(&place.settings.topic, i64::try_from(second).unwrap() - 1).await;
    let lost = tokio::time::timeout(SOON, stream.lost()).await.unwrap();
    assert!(lost.to_string().contains("were deleted"), "{lost}");
    kafka.configure(&place.settings.topic, &[("cleanup.policy", "compact")]).await;
    let left = place.owner().await;
    assert!(!left.knows(&pair_of(1)) && left.knows(&pair_of(2)));
    assert_eq!(values(&left).await, ["two"], "reading from 1 begins where the topic begins");
}

#[tokio::test(flavor = "multi_thread")]
async fn compaction_keeps_the_newest_of_each_pair_and_ends_deleted_ones() {
    let kafka = Kafka::shared().await;
    let mut place = Topic::on(kafka);
    place.settings.age = Duration::from_millis(100);
    let config = [
        ("cleanup.policy", "compact"),
        ("segment.ms", "100"),
        ("min.cleanable.dirty.ratio", "0.01"),
        ("delete.retention.ms", "100"),
        ("max.compaction.lag.ms", "200"),
    ];
    kafka.create_topic(&place.settings.topic, 1, &config).await;
    let stream = place.owner().await;
    // A segment is closed by the time in its records, the owner's marker among them.
    let start = start_ms() + 3_600_000;
    for i in 0..20_u64 {
        let value = format!("v{i}");
        stream.append(Arc::new(vec![change(1, start, Some(value.as_bytes())), change(2, start, None)])).await.unwrap();
    }
    eventually("compaction", Duration::from_secs(60), async || {
        // A segment is closed by the next record.
        let tick = change(3, start_ms() + 3_600_000, Some(b"tick"));
        stream.append(Arc::new(vec![tick])).await.map_err(|error| error.to_string())?;
        let records = kafka.records(&place.settings.topic).await;
        let of = |pair: &str| records.iter().filter(|raw| String::from_utf8_lossy(&raw.key).contains(pair)).count();
        if (of("/p/1\""), of("/p/2\"")) == (1, 0) { Ok(()) } else { Err(format!("{records:?}")) }
    })
    .await;
    assert_eq!(values(&stream).await.iter().filter(|value| value.starts_with('v')).collect::<Vec<_>>(), ["v19"]);
    drop(stream);
    let next = place.owner().await;
    assert!(next.latest(&pair_of(1)).unwrap().unwrap().after.is(Some(b"v19")));
    assert!(!next.knows(&pair_of(2)));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lease_of_a_group_is_given_to_one_and_handed_over() {
    let mut place = Topic::new().await;
    place.settings.lease = true;
    let first = KafkaOpener::new(place.settings.clone());
    let stream = eventually("the lease", SOON, async || first.open().await.map_err(|error| error.to_string())).await;
    stream.begin(1, up_to(1)).await.unwrap();
    stream.append(put(1, "one")).await.unwrap();
    let mut other = place.settings.clone();
    other.worker = "other:2".to_owned();
    let second = KafkaOpener::new(other);
    for _ in 0..2 {
        match second.open().await {
            Err(StreamError::Owned(_)) => {}
            other => panic!("two have the lease: {:?}", other.map(|_| ())),
        }
    }
    assert!(stream.append(put(1, "two")).await.is_ok(), "the owner keeps it");
    let owned = second.open().await.map(|_| ()).unwrap_err();
    assert_eq!(owned, StreamError::Owned("test:1 owns the pipeline".to_owned()));
    drop(stream);
    let taken =
        eventually("the second has the lease", SOON, async || second.open().await.map_err(|error| error.to_string()))
            .await;
    assert_eq!(taken.newest_epoch().await, 1);
    taken.begin(2, up_to(2)).await.unwrap();
    assert_eq!(values(&taken).await, ["one", "two"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn appends_fail_while_the_broker_is_away_and_go_on_when_it_is_back() {
    let mut kafka = Kafka::start().await;
    let mut place = Topic::on(&kafka);
    place.settings.config = vec![("delivery.timeout.ms".to_owned(), "3000".to_owned())];
    let stream = place.owner().await;
    stream.append(put(1, "before")).await.unwrap();
    kafka.kill9();
    let refused = stream.append(put(2, "away")).await;
    assert!(matches!(refused, Err(StreamError::Unavailable(_))), "{refused:?}");
    assert!(matches!(stream.read(1, 10, usize::MAX).await, Ok(_) | Err(StreamError::Unavailable(_))));
    kafka.restart().await;
    eventually("appends go on", Duration::from_secs(30), async || {
        stream.append(put(3, "after")).await.map_err(|error| error.to_string())
    })
    .await;
    let mut seen = values(&stream).await;
    seen.dedup();
    // An append that failed may have come through after all; an acknowledged one is there.
    assert!(seen.first().is_some_and(|first| first == "before") && seen.contains(&"after".to_owned()), "{seen:?}");
    assert!(stream.knows(&pair_of(1)) && stream.knows(&pair_of(3)));
    eventually_is("the stream is of use", SOON, true, async || stream.append(put(4, "more")).await.is_ok()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_frozen_for_a_moment_holds_an_append_up_and_loses_nothing() {
    let kafka = Kafka::start().await;
    let stream = Arc::new(Topic::on(&kafka).owner().await);
    stream.append(put(1, "before")).await.unwrap();
    kafka.pause();
    let held = tokio::spawn({
        let stream = Arc::clone(&stream);
        async move { stream.append(put(2, "held")).await }
    });
    never("a frozen broker acknowledges", Duration::from_secs(1), async || {
        if held.is_finished() { Err("the append ended".to_owned()) } else { Ok(()) }
    })
    .await;
    kafka.resume();
    held.await.unwrap().unwrap();
    assert_eq!(values(&*stream).await, ["before", "held"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_a_frozen_broker_holds_up_goes_on_where_it_stood() {
    let kafka = Kafka::start().await;
    let place = Topic::on(&kafka);
    let stream = place.owner().await;
    let changes: Vec<_> = (0..60).map(|i| change(i, start_ms(), Some(format!("{i}").as_bytes()))).collect();
    let first = stream.append(Arc::new(changes)).await.unwrap();
    let reader = Arc::new(KafkaStream::open_read_only(place.settings.clone()).await.unwrap().unwrap());
    let mut read: Vec<u64> = Vec::new();
    let begun = reader.read(first, 5, usize::MAX).await.unwrap();
    read.extend(begun.records.iter().map(|record| record.position));
    kafka.pause();
    // What it has fetched ahead lies in it; it asks the broker where the stream ends, several times.
    let held = tokio::spawn({
        let reader = Arc::clone(&reader);
        async move { reader.read(begun.next, usize::MAX, usize::MAX).await }
    });
    never("a frozen broker answers", Duration::from_millis(3500), async || {
        if held.is_finished() { Err("the read ended".to_owned()) } else { Ok(()) }
    })
    .await;
    kafka.resume();
    let rest = held.await.unwrap().unwrap();
    read.extend(rest.records.iter().map(|record| record.position));
    assert_eq!(read, (first..first + 60).collect::<Vec<u64>>(), "each record once, in order");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_whose_partition_has_no_leader_for_a_while_is_not_taken_for_deleted() {
    let mut cluster = Kafka::cluster().await;
    let mut place = Topic::on(&cluster[0]);
    place.settings.brokers = cluster.iter().map(Kafka::brokers).collect::<Vec<_>>().join(",");
    place.settings.replication = Some(1);
    let stream = place.owner().await;
    stream.append(put(1, "before")).await.unwrap();
    let reader = KafkaStream::open_read_only(place.settings.clone()).await.unwrap().unwrap();
    let (leader, _) = cluster[0].leader(&place.settings.topic).await;
    cluster[leader - 1].kill9();
    // Longer than the owner's own looks at its topic, of which two in a row decide.
    let begun = std::time::Instant::now();
    let mut answers = 0;
    while begun.elapsed() < Duration::from_secs(25) {
        let (looked, read) =
            tokio::join!(reader.position_at(start_ms()), tokio::time::timeout(SOON, stream.read(1, 10, usize::MAX)));
        for refused in [looked.map(|_| ()), read.unwrap().map(|_| ())] {
            assert!(matches!(refused, Ok(()) | Err(StreamError::Unavailable(_))), "{refused:?}");
            answers += usize::from(refused.is_err());
        }
    }
    assert!(answers >= 2, "without the leader nobody can answer");
    assert!(tokio::time::timeout(Duration::ZERO, stream.lost()).await.is_err(), "the opening is still of use");
    cluster[leader - 1].restart().await;
    eventually_is("what was recorded is read", Duration::from_secs(60), Ok(1), async || {
        stream.read(1, 10, usize::MAX).await.map(|batch| batch.records.len())
    })
    .await;
    eventually("appends go on", Duration::from_secs(60), async || {
        stream.append(put(2, "after")).await.map_err(|error| error.to_string())
    })
    .await;
    assert!(tokio::time::timeout(Duration::ZERO, stream.lost()).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_credentials_and_missing_rights_are_refused_with_the_reason() {
    let plain = "org.apache.kafka.common.security.plain.PlainLoginModule required username=\"admin\" \
                 password=\"admin-pw\" user_admin=\"admin-pw\" user_keepstep=\"right\" user_nobody=\"right\";";
    let kafka = Kafka::start_with(
        &[
            "sasl.enabled.mechanisms=PLAIN",
            "sasl.mechanism.inter.broker.protocol=PLAIN",
            &format!("listener.name.sasl_plaintext.plain.sasl.jaas.config={plain}"),
            "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users=User:admin;User:keepstep;User:ANONYMOUS",
        ],
        &[
            ("security.protocol", "SASL_PLAINTEXT"),
            ("sasl.mechanisms", "PLAIN"),
            ("sasl.username", "admin"),
            ("sasl.password", "admin-pw"),
        ],
    )
    .await;
    let login = |place: &mut Topic, user: &str, password: &str| {
        let config = [
            ("security.protocol", "SASL_PLAINTEXT"),
            ("sasl.mechanisms", "PLAIN"),
            ("sasl.username", user),
            ("sasl.password", password),
        ];
        place.settings.config = config.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        place.settings.secrets = vec![password.to_owned()];
    };
    let mut place = Topic::on(&kafka);
    login(&mut place, "keepstep", "wrong-one");
    let why = refusal(&place.settings).await;
    assert!(why.contains("refuses this client") && why.to_lowercase().contains("auth"), "{why}");
    assert!(!why.contains("wrong-one"), "{why}");
    login(&mut place, "nobody", "right");
    let why = refusal(&place.settings).await;
    assert!(why.contains("does not allow it") && why.contains(&place.settings.topic), "{why}");
    login(&mut place, "keepstep", "right");
    let stream = place.owner().await;
    stream.append(put(1, "one")).await.unwrap();
    assert_eq!(values(&stream).await, ["one"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn properties_that_librdkafka_does_not_take_are_refused() {
    let mut place = Topic::new().await;
    place.settings.config = vec![("compression.type".to_owned(), "zip".to_owned())];
    let why = refusal(&place.settings).await;
    assert!(why.contains("compression.type"), "{why}");
    // Without the feature there is no TLS; with it, a broker without TLS is one that does not answer.
    if !cfg!(feature = "kafka-tls") {
        place.settings.config = vec![("security.protocol".to_owned(), "SSL".to_owned())];
        let why = refusal(&place.settings).await;
        assert!(why.contains("security.protocol") && why.contains("--features kafka-tls"), "{why}");
    }
}
