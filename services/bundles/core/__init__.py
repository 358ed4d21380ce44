"""What is said about bundles as functions of values: manifests, which files a run needs, reports of moves."""
