"""The stages of the pipeline, a file each; distill/pipeline.py says which follows which.

    lesson -> training -> export -> certificate -> measurement -> sealing

A stage gets the job, what earlier stages have left, and its own folder, which is all that it writes
to but for the bundle at the end. It refuses to know what comes after it, and whether it has been
done before.
"""
