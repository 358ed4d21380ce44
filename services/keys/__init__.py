"""Who may connect to the NATS server and what each may do there: keys, certificates, subject allow-lists."""
