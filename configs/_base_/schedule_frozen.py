# The paper's recipe for a detector that is trained already, as the authors'
# code has it: Adam with 1e-5, a tenth of it late, batches of 4, gradients
# clipped at 0.1, 6 to 20 epochs.
max_epochs = 12
train_cfg = dict(
    type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='Adam', lr=1e-5),
    clip_grad=dict(max_norm=0.1))
param_scheduler = [
    dict(
        type='MultiStepLR',
        begin=0,
        end=max_epochs,
        by_epoch=True,
        milestones=[10],
        gamma=0.1)
]
auto_scale_lr = dict(enable=False, base_batch_size=4)
