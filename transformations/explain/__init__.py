"""Why a member's embeddings are what they are: what each activity moved."""
